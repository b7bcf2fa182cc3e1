//! Captures written by hand, good and bad.

use super::*;

fn open(bytes: &[u8]) -> anyhow::Result<CaptureReader> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcap");
    fs::write(&path, bytes).unwrap();
    CaptureReader::open(&path)
}

fn frames(bytes: &[u8]) -> anyhow::Result<Vec<Frame>> {
    let mut reader = open(bytes)?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        frames.push(frame);
    }
    Ok(frames)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A little-endian pcap with one packet of which four bytes were captured.
fn pcap(link: u32, original_len: u32) -> Vec<u8> {
    let mut bytes = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 4, link]);
    bytes.extend(words(&[7, 250_000, 4, original_len]));
    bytes.extend([1, 2, 3, 4]);
    bytes
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = 12 + body.len() as u32;
    let mut bytes = words(&[kind, len]);
    bytes.extend(body);
    bytes.extend(words(&[len]));
    bytes
}

/// A little-endian pcapng with one interface.
fn pcapng(link: u32, interface_options: &[u8]) -> Vec<u8> {
    let section = [words(&[0x1a2b_3c4d, 1]), vec![0xff; 8]].concat();
    let interface = [words(&[link, 0]), interface_options.to_vec()].concat();
    [block(0x0a0d_0d0a, &section), block(1, &interface)].concat()
}

fn enhanced(interface: u32, ticks: u64, original_len: u32) -> Vec<u8> {
    let header = [
        interface,
        (ticks >> 32) as u32,
        ticks as u32,
        3,
        original_len,
    ];
    block(6, &[words(&header), vec![1, 2, 3, 0]].concat())
}

#[test]
fn packet_that_was_cut_to_the_snap_length_is_read() {
    let frames = frames(&pcap(1, 60)).unwrap();
    assert_eq!(
        frames,
        [Frame {
            bytes: vec![1, 2, 3, 4],
            original_len: 60,
            timestamp: Duration::from_millis(7_250),
        }]
    );
}

#[test]
fn pcapng_packets_come_without_their_padding_and_at_their_time() {
    let simple = block(3, &[words(&[3]), vec![4, 5, 6, 0]].concat());
    let bytes = [
        pcapng(1, &[]),
        enhanced(0, 2_500_000, 3),
        block(0x0bad, &[]),
        simple,
    ]
    .concat();
    let frames = frames(&bytes).unwrap();
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[0].bytes, [1, 2, 3]);
    assert_eq!(frames[0].timestamp, Duration::from_millis(2_500));
    assert_eq!(frames[1].bytes, [4, 5, 6]);
}

#[test]
fn pcapng_resolution_is_heeded() {
    // Option 9 (if_tsresol) of length 1: ten to the minus nine.
    let options = [9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    let bytes = [pcapng(1, &options), enhanced(0, 2_500_000_000, 3)].concat();
    assert_eq!(
        frames(&bytes).unwrap()[0].timestamp,
        Duration::from_millis(2_500)
    );
}

#[test]
fn other_links_than_ethernet_are_refused() {
    let error = format!("{:#}", open(&pcap(101, 4)).err().unwrap());
    assert!(error.contains("link type 101"), "{error}");
    // A frame check sequence noted beside the link type is no other link.
    assert!(open(&pcap(0x4400_0001, 4)).is_ok());
    let bytes = [pcapng(113, &[]), enhanced(0, 0, 3)].concat();
    let error = format!("{:#}", frames(&bytes).unwrap_err());
    assert!(error.contains("packet 0: link type 113"), "{error}");
}

#[test]
fn damaged_captures_are_refused_with_what_is_wrong() {
    let good = pcap(1, 4);
    for (bytes, expected) in [
        (Vec::new(), "is neither pcap nor pcapng"),
        (b"GET / HTTP/1.1".to_vec(), "is neither pcap nor pcapng"),
        (good[..10].to_vec(), "the header cannot be read"),
        (
            good[..good.len() - 1].to_vec(),
            "packet 0: the file is cut off",
        ),
        (
            [pcapng(1, &[]), enhanced(5, 0, 3)].concat(),
            "it names interface 5",
        ),
    ] {
        let error = format!("{:#}", frames(&bytes).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_written_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.pcap");
    let mut writer = CaptureWriter::create(&path).unwrap();
    writer
        .write(Duration::from_millis(1_500), &[7; 20])
        .unwrap();
    writer.write(Duration::MAX, &[8; 3_700]).unwrap();
    writer.finish().unwrap();
    let read = frames(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(read[0].bytes, [7; 20]);
    assert_eq!(read[0].timestamp, Duration::from_millis(1_500));
    assert_eq!(read[1].bytes.len(), 3_700);
    assert!(are_the_same(&path, &dir.path().join("./out.pcap")));
    assert!(!are_the_same(&path, dir.path()));
}
