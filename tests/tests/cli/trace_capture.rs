//! `balancer trace` of captures, in and out.

use std::fs;

use serde_json::Value;

use super::{FILE, Ran, Scratch, isolated, run, run_with_stdin};

const WEB: &[u8] = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x08\0\
    \x45\0\0\x28\0\0\x40\0\x40\x06\x4e\x91\xc6\x33\x64\x01\xc0\0\x02\x0a\
    \x04\xd2\0\x50\0\0\0\x01\0\0\0\0\x50\x02\x03\xe8\0\0\0\0";

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A little-endian pcap of frames, a second apart, each with the length it
/// had on the wire.
fn pcap(link: u32, frames: &[(&[u8], u32)]) -> Vec<u8> {
    let mut bytes = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, link]);
    for (second, (frame, original_len)) in (100..).zip(frames) {
        bytes.extend(words(&[second, 7, frame.len() as u32, *original_len]));
        bytes.extend_from_slice(frame);
    }
    bytes
}

/// Time and bytes of each packet of a pcap as `trace` writes it.
fn read(bytes: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(4), word(20)), (0xa1b2_c3d4, 0x0004_0002, 1));
    let mut packets = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let len = word(at + 8) as usize;
        assert_eq!(word(at + 8), word(at + 12));
        packets.push((
            word(at),
            word(at + 4),
            bytes[at + 16..at + 16 + len].to_vec(),
        ));
        at += 16 + len;
    }
    packets
}

/// A frame of another host, which passes.
fn passing() -> Vec<u8> {
    let mut frame = WEB.to_vec();
    frame[33] = 99;
    frame
}

/// A frame whose IP length goes past it, which is dropped.
fn too_long() -> Vec<u8> {
    let mut frame = WEB.to_vec();
    frame[17] = 0xff;
    frame
}

fn forwarded() -> Vec<u8> {
    let mut frame = WEB.to_vec();
    frame[..12].copy_from_slice(b"\x02\0\0\0\0\x11\x02\0\0\0\0\x01");
    frame
}

fn trace(scratch: &Scratch, capture: &[u8], more: &[&str]) -> Ran {
    let config = scratch.file("b.toml", FILE);
    let input = scratch.file("in.pcap", capture);
    let args = ["trace", "--config", &config, "--json", "--pcap", &input];
    run(isolated(&[&args, more].concat()))
}

fn verdicts(ran: &Ran) -> Vec<String> {
    ran.stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|record| record["verdict"].as_str().unwrap_or("error").to_owned())
        .collect()
}

#[test]
fn capture_comes_in_and_what_leaves_or_passes_goes_out_at_its_time() {
    let scratch = Scratch::new();
    let (passing, too_long) = (passing(), too_long());
    let capture = pcap(1, &[(WEB, 54), (&too_long, 54), (&passing, 54)]);
    let out = scratch.path("out.pcap");
    let ran = trace(&scratch, &capture, &["--out", out.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(verdicts(&ran), ["tx", "drop", "pass"]);
    assert_eq!(
        read(&fs::read(out).unwrap()),
        [(100, 7, forwarded()), (102, 7, passing)]
    );
}

#[test]
fn frames_in_hex_can_be_written_as_a_capture_too() {
    let scratch = Scratch::new();
    let config = scratch.file("b.toml", FILE);
    let out = scratch.path("out.pcap");
    let hex = balancer_tests::frames::hex(WEB);
    let ran = run(isolated(&[
        "trace",
        "--config",
        &config,
        "--hex",
        &hex,
        "--out",
        out.to_str().unwrap(),
    ]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(read(&fs::read(out).unwrap()), [(0, 0, forwarded())]);
}

#[test]
fn pcapng_is_read_and_stdin_is_a_capture_too() {
    let block = |kind: u32, body: &[u8]| {
        let len = 12 + body.len() as u32;
        [words(&[kind, len]), body.to_vec(), words(&[len])].concat()
    };
    let section = [words(&[0x1a2b_3c4d, 1]), vec![0xff; 8]].concat();
    let packet = [words(&[0, 0, 7, 54, 54]), WEB.to_vec(), vec![0; 2]].concat();
    let capture = [
        block(0x0a0d_0d0a, &section),
        block(1, &words(&[1, 0])),
        block(6, &packet),
    ]
    .concat();
    let scratch = Scratch::new();
    assert_eq!(verdicts(&trace(&scratch, &capture, &[])), ["tx"]);
    let config = scratch.file("b.toml", FILE);
    let command = isolated(&["trace", "--config", &config, "--json", "--pcap", "-"]);
    assert_eq!(verdicts(&run_with_stdin(command, &capture)), ["tx"]);
}

#[test]
fn packets_that_were_captured_in_part_are_traced_and_said() {
    let scratch = Scratch::new();
    let ran = trace(&scratch, &pcap(1, &[(WEB, 54), (&WEB[..40], 1_500)]), &[]);
    assert_eq!(ran.code, Some(0));
    assert_eq!(verdicts(&ran), ["tx", "drop"]);
    let note = "note: captured in part: 1 frame, the first at index 1";
    assert!(ran.stderr.contains(note), "{}", ran.stderr);
}

#[test]
fn capture_that_is_cut_off_is_traced_to_there_and_fails() {
    let scratch = Scratch::new();
    let capture = pcap(1, &[(WEB, 54), (WEB, 54)]);
    let ran = trace(&scratch, &capture[..capture.len() - 1], &[]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(verdicts(&ran), ["tx"]);
    assert!(
        ran.stderr.contains("packet 1: the file is cut off"),
        "{}",
        ran.stderr
    );
}

#[test]
fn captures_that_cannot_be_traced_are_refused() {
    let scratch = Scratch::new();
    for (capture, gist) in [
        (pcap(113, &[(WEB, 54)]), "link type 113, and only Ethernet"),
        (b"hello there".to_vec(), "is neither pcap nor pcapng"),
        (Vec::new(), "is neither pcap nor pcapng"),
    ] {
        let ran = trace(&scratch, &capture, &[]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
        assert!(ran.stderr.contains(gist), "{gist}: {}", ran.stderr);
    }
}

#[test]
fn capture_is_not_overwritten_while_it_is_read() {
    let scratch = Scratch::new();
    let capture = pcap(1, &[(WEB, 54)]);
    let input = scratch.path("in.pcap");
    let ran = trace(&scratch, &capture, &["--out", input.to_str().unwrap()]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert_eq!(fs::read(input).unwrap(), capture);
}
