use std::io::Write as _;

use proptest::prelude::*;

use super::testing::{SAMPLE, examined};
use super::*;

fn file_with(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn a_good_file_loads() {
    let file = file_with(SAMPLE.as_bytes());
    let examined = load(file.path(), None).unwrap();
    assert!(!examined.report.has_errors());
    assert_eq!(examined.config.unwrap().services.len(), 2);
}

/// Its first lines say so, and the reference shows it whole.
#[test]
fn the_deployed_sample_has_no_finding_and_stands_in_the_reference() {
    let sample = include_str!("../../../deploy/balancer.toml");
    let counts = |service: &model::Service, size| crate::desired::slot_counts(service, size);
    let report = examine("balancer.toml", sample, Some(&counts)).report;
    assert!(report.findings().is_empty(), "{}", report.render(false));
    let reference = include_str!("../../../docs/configuration.md");
    assert!(reference.contains(&format!("```toml\n{sample}```")));
}

#[test]
fn an_unreadable_file_is_named_with_the_reason() {
    let error = load(Path::new("/nonexistent/b.toml"), None).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("cannot read /nonexistent/b.toml: "),
        "{message}"
    );

    let file = file_with(b"# \xc3\xa4 \xff");
    let message = load(file.path(), None).unwrap_err().to_string();
    assert!(message.contains("not UTF-8 at byte 5"), "{message}");

    let file = file_with(b"");
    file.as_file().set_len(MAX_FILE_LEN + 1).unwrap();
    let message = load(file.path(), None).unwrap_err().to_string();
    assert!(message.contains("larger than 16777216 bytes"), "{message}");
}

#[test]
fn what_is_no_regular_file_is_not_waited_for() {
    let file = file_with(SAMPLE.as_bytes());
    assert_eq!(read_regular(file.path()).unwrap(), SAMPLE);
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    for (path, kind) in [
        (directory.path(), "is a directory and"),
        (pipe.as_path(), "is a pipe and"),
        (Path::new("/dev/zero"), "is a device and"),
    ] {
        let message = read_regular(path).unwrap_err().to_string();
        assert!(message.contains(kind), "{message}");
    }
}

/// Reading, checking and every way of showing must stand any text.
fn exercise(text: &str) {
    let examined = examined(text);
    examined.report.render(true);
    examined.report.to_json();
    examined.report.to_sarif();
    if !examined.report.has_errors() {
        let config = examined.config.unwrap();
        let again = parse::parse(&render::render(&config)).config;
        assert_eq!(again.as_ref(), Some(&config));
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}|[\\[\\]\\n={}\"'.,a-c0-9 \\\\#-]{0,100}") {
        exercise(&text);
    }

    #[test]
    fn no_mutation_of_a_good_file_makes_it_panic(
        at in 0..SAMPLE.len(),
        cut in 0_usize..40,
        insert in "[\\[\\]\\n={}\"'.,a-c0-9 \\\\#-]{0,6}|\\PC{0,3}",
    ) {
        let mut text = SAMPLE.to_owned();
        let end = (at + cut).min(text.len());
        text.replace_range(at..end, &insert);
        exercise(&text);
    }

    #[test]
    fn no_swap_of_lines_makes_it_panic(a in 0_usize..70, b in 0_usize..70) {
        let mut lines: Vec<&str> = SAMPLE.lines().collect();
        let count = lines.len();
        lines.swap(a % count, b % count);
        exercise(&lines.join("\n"));
    }
}
