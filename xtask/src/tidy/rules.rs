//! Which words may stand where, and why.

use super::Finding;
use super::source::{Line, Source};

/// Lines a file may have before its tests.
const MAX_LINES: usize = 400;

/// Lines of a file that holds nothing but tests.
const MAX_TEST_LINES: usize = 800;

/// Lines above an `unsafe` in which its SAFETY comment is looked for.
const SAFETY_REACH: usize = 4;

/// Words with a place.
struct Rule {
    words: &'static [&'static str],
    place: Place,
    why: &'static str,
}

/// Where words may stand. Paths are beginnings, so that `src/maglev` means the
/// file as well as the directory.
enum Place {
    OnlyIn(&'static [&'static str]),
    /// Not in these files but for their tests.
    NotIn(&'static [&'static str]),
    InTestsOnly,
    /// Not in tests, but for these files.
    NotInTestsBut(&'static [&'static str]),
    Nowhere,
}

const RULES: &[Rule] = &[
    Rule {
        words: &["aya::", "aya_obj::", "aya_log::"],
        place: Place::OnlyIn(&[
            "balancer-ebpf/",
            "balancer-user/src/cli/trace",
            "balancer-user/src/dataplane/",
            "balancer-user/src/decap",
            "tests/",
        ]),
        why: "the rest sees the kernel through the data plane's own types only",
    },
    Rule {
        words: &["Instant::now", "SystemTime::now"],
        place: Place::NotIn(&[
            "balancer-common/",
            "balancer-user/src/config/",
            "balancer-user/src/health",
            "balancer-user/src/live/rules",
            "balancer-user/src/maglev",
            "balancer-user/src/plan",
            "balancer-user/src/tables",
        ]),
        // Tests may: an `Instant` to start from comes from nowhere else.
        why: "the pure core is handed the time, so that tests can choose it",
    },
    Rule {
        words: &["unsafe"],
        place: Place::OnlyIn(&[
            "balancer-ebpf/",
            "balancer-user/src/dataplane/",
            "tests/src/lab/",
        ]),
        why: "what the compiler cannot check stays in a few files; wrap it there",
    },
    Rule {
        words: &[".unwrap()"],
        place: Place::InTestsOnly,
        why: "a daemon never panics on input; return an error, or `expect` what is plain above",
    },
    Rule {
        // The lab's `wait` is what others wait with, its HTTP load keeps a
        // pace; programs are no tests.
        words: &["thread::sleep", "time::sleep"],
        place: Place::NotInTestsBut(&[
            "tests/src/bin/",
            "tests/src/lab/wait.rs",
            "tests/src/lab/client/http.rs",
        ]),
        why: "a pause is too short on a slow machine and too long on a fast one; wait for the \
              condition with a deadline, or pause the clock",
    },
    Rule {
        words: &["todo!", "unimplemented!"],
        place: Place::Nowhere,
        why: "what goes in is finished",
    },
    Rule {
        words: &["dbg!"],
        place: Place::Nowhere,
        why: "a trace of debugging; log it or leave it out",
    },
    Rule {
        words: &["#[ignore"],
        place: Place::Nowhere,
        why: "a test that does not run proves nothing; assert today's result and say why it is wrong",
    },
];

/// In a file whose tests pause tokio's clock, its sleep takes no time.
const PAUSED_CLOCK: &[&str] = &["start_paused = true", "time::pause()"];
const PAUSED_SLEEP: &str = "time::sleep";

/// Words that no comment has.
const UNFINISHED: &[&str] = &["TODO", "FIXME"];

/// What holds for every text file.
pub(super) fn check_text(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Findings::new(path);
    for (number, line) in (1..).zip(text.lines()) {
        if line.ends_with([' ', '\t']) {
            findings.add(number, "blank at the end of the line".to_owned());
        }
        if path.ends_with(".rs") && line.contains('\t') {
            findings.add(
                number,
                "tab; rustfmt indents by blanks, and `\\t` can be seen".to_owned(),
            );
        }
    }
    findings.found
}

/// What holds for Rust code and its comments.
pub(super) fn check_rust(source: &Source) -> Vec<Finding> {
    let mut findings = Findings::new(&source.path);
    for rule in RULES {
        check_rule(rule, source, &mut findings);
    }
    check_comments(source, &mut findings);
    check_safety(source, &mut findings);
    check_len(source, &mut findings);
    findings.found
}

struct Findings {
    path: String,
    found: Vec<Finding>,
}

impl Findings {
    fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            found: Vec::new(),
        }
    }

    fn add(&mut self, line: usize, text: String) {
        self.found.push(Finding {
            path: self.path.clone(),
            line,
            text,
        });
    }
}

fn check_rule(rule: &Rule, source: &Source, findings: &mut Findings) {
    let paused = source
        .lines
        .iter()
        .any(|line| PAUSED_CLOCK.iter().any(|it| line.code.contains(it)));
    for (number, line) in (1..).zip(&source.lines) {
        if may_stand(&rule.place, &source.path, line) {
            continue;
        }
        for word in rule.words.iter().filter(|word| has_word(&line.code, word)) {
            if paused && *word == PAUSED_SLEEP {
                continue;
            }
            findings.add(number, format!("`{word}` may not stand here: {}", rule.why));
        }
    }
}

fn may_stand(place: &Place, path: &str, line: &Line) -> bool {
    let listed = |paths: &[&str]| paths.iter().any(|start| path.starts_with(start));
    match place {
        Place::OnlyIn(paths) => listed(paths),
        Place::NotIn(paths) => line.is_test || !listed(paths),
        Place::InTestsOnly => line.is_test,
        Place::NotInTestsBut(paths) => !line.is_test || listed(paths),
        Place::Nowhere => false,
    }
}

/// Whether `word` stands in `code` as a word of its own.
///
/// `dataplane::aya::Kernel` names a module of ours, so a path's later segments
/// are no match for a crate's name; for `std::thread::sleep` they are.
fn has_word(code: &str, word: &str) -> bool {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let is_crate = word.ends_with("::");
    code.match_indices(word).any(|(at, _)| {
        let before = &code[..at];
        let after = &code[at + word.len()..];
        let joined_before = word.starts_with(is_name) && before.ends_with(is_name);
        let joined_after = word.ends_with(is_name) && after.starts_with(is_name);
        let inner_segment = is_crate
            && before
                .strip_suffix("::")
                .is_some_and(|rest| rest.ends_with(is_name));
        !joined_before && !joined_after && !inner_segment
    })
}

fn check_comments(source: &Source, findings: &mut Findings) {
    for (number, line) in (1..).zip(&source.lines) {
        for word in UNFINISHED
            .iter()
            .filter(|word| has_word(&line.comment, word))
        {
            findings.add(
                number,
                format!("`{word}`: what goes in is finished; file an issue"),
            );
        }
    }
}

/// Every block and impl that is unsafe says what check it rests on.
fn check_safety(source: &Source, findings: &mut Findings) {
    for (index, line) in source.lines.iter().enumerate() {
        let Some(rest) = after_word(&line.code, "unsafe") else {
            continue;
        };
        let next = source
            .lines
            .get(index + 1)
            .map_or("", |next| next.code.trim_start());
        // The brace may stand on the next line.
        let rest = if rest.is_empty() { next } else { rest };
        if !rest.starts_with('{') && !rest.starts_with("impl") {
            continue;
        }
        let first = index.saturating_sub(SAFETY_REACH);
        let explained = source.lines[first..=index]
            .iter()
            .any(|it| it.comment.contains("SAFETY:"));
        if !explained {
            let text = format!(
                "`unsafe` without a `SAFETY:` comment in the {SAFETY_REACH} lines above: \
                 name the check it rests on"
            );
            findings.add(index + 1, text);
        }
    }
}

/// What follows the last `word` of a line.
fn after_word<'a>(code: &'a str, word: &str) -> Option<&'a str> {
    let at = code.rfind(word).filter(|_| has_word(code, word))?;
    Some(code[at + word.len()..].trim())
}

fn check_len(source: &Source, findings: &mut Findings) {
    let tests = source.lines.iter().filter(|it| it.is_test_item).count();
    let code = source.lines.len() - tests;
    let (len, limit, what) = if code > 0 {
        (code, MAX_LINES, "lines before the tests")
    } else {
        (tests, MAX_TEST_LINES, "lines of tests")
    };
    if len > limit {
        findings.add(1, format!("{len} {what}, {limit} are the limit: split it"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    /// Lines with findings in a file at `path`.
    fn lines(path: &str, text: &str) -> Vec<usize> {
        check_rust(&Source::parse(path, text))
            .iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn aya_stands_in_the_data_plane_only() {
        let text = "use aya::Ebpf;\n";
        for allowed in [
            "balancer-user/src/dataplane/kernel.rs",
            "balancer-user/src/decap.rs",
            "tests/a.rs",
        ] {
            assert_eq!(lines(allowed, text), NONE, "{allowed}");
        }
        for refused in ["balancer-user/src/api.rs", "balancer-common/src/lib.rs"] {
            assert_eq!(lines(refused, text), [1], "{refused}");
        }
    }

    #[test]
    fn crate_is_told_from_module_and_from_longer_names() {
        for (code, expected) in [
            ("let x = ::aya::Ebpf;", true),
            ("f(&aya::Ebpf)", true),
            ("use crate::dataplane::aya::Kernel;", false),
            ("use maya::X;", false),
            ("use aya_ebpf::X;", false),
        ] {
            assert_eq!(has_word(code, "aya::"), expected, "{code}");
        }
    }

    #[test]
    fn pure_modules_have_no_clock() {
        let text = "fn a() {\n    let now = Instant::now();\n}\n";
        assert_eq!(lines("balancer-user/src/health/machine.rs", text), [2]);
        assert_eq!(lines("balancer-user/src/plan.rs", text), [2]);
        assert_eq!(lines("balancer-user/src/probe.rs", text), NONE);
    }

    #[test]
    fn unwrap_stands_in_tests_only() {
        let text = "fn a() { b.unwrap() }\n#[cfg(test)]\nmod tests {\n  fn c() { d.unwrap() }\n}\n";
        assert_eq!(lines("balancer-user/src/a.rs", text), [1]);
        assert_eq!(lines("tests/src/a.rs", text), NONE);
        assert_eq!(
            lines("xtask/src/a.rs", "// a.unwrap()\nb.unwrap_or(1)\n"),
            NONE
        );
    }

    #[test]
    fn unsafe_stands_where_it_is_expected() {
        let text = "// SAFETY: checked\nunsafe { a() }\n";
        assert_eq!(lines("balancer-ebpf/src/packet.rs", text), NONE);
        assert_eq!(lines("balancer-user/src/store.rs", text), [2]);
    }

    #[test]
    fn unsafe_needs_its_reason_near() {
        let path = "balancer-ebpf/src/packet.rs";
        for (text, expected) in [
            ("unsafe { a() }\n", vec![1]),
            ("unsafe impl Pod for A {}\n", vec![1]),
            ("let a = unsafe\n{ b };\n", vec![1]),
            ("// SAFETY: long ago\n\n\n\n\nunsafe { a() }\n", vec![6]),
            (
                "// SAFETY: the length was checked,\n// above\nlet a =\n    unsafe { b };\n",
                vec![],
            ),
            ("unsafe { a() } // SAFETY: plain\n", vec![]),
            // Their callers give the reason.
            ("unsafe fn a() {}\n", vec![]),
            ("unsafe extern \"C\" {}\n", vec![]),
            ("#[unsafe(no_mangle)]\n", vec![]),
            ("#![deny(unsafe_code)]\n", vec![]),
        ] {
            assert_eq!(lines(path, text), expected, "{text}");
        }
    }

    #[test]
    fn tests_do_not_sleep() {
        let text = "std::thread::sleep(x);\ntokio::time::sleep(x).await;\n";
        assert_eq!(lines("tests/tests/cli.rs", text), [1, 2]);
        assert_eq!(lines("tests/src/lab/wait.rs", text), NONE);
        assert_eq!(lines("balancer-user/src/probe.rs", text), NONE);
        let in_tests = format!("#[cfg(test)]\nmod tests {{\n{text}}}\n");
        assert_eq!(lines("balancer-user/src/probe.rs", &in_tests), [3, 4]);
    }

    #[test]
    fn tests_may_sleep_on_a_paused_clock() {
        let text = "#[tokio::test(start_paused = true)]\nasync fn a() {\n\
                    tokio::time::sleep(x).await;\nstd::thread::sleep(x);\n}\n";
        assert_eq!(lines("tests/tests/cli.rs", text), [4]);
    }

    #[test]
    fn nothing_unfinished_goes_in() {
        for text in [
            "// TODO: later\n",
            "/* FIXME */\n",
            "todo!()\n",
            "unimplemented!(\"x\")\n",
            "dbg!(a)\n",
            "#[ignore = \"slow\"]\n",
        ] {
            assert_eq!(lines("xtask/src/a.rs", text), [1], "{text}");
        }
        assert_eq!(
            lines("xtask/src/a.rs", "let a = \"TODO\"; // TODOS\n"),
            NONE
        );
    }

    #[test]
    fn tests_do_not_count_towards_the_length() {
        let code = "fn a() {}\n".repeat(MAX_LINES);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
        let too_long = format!("{code}fn b() {{}}\n");
        for path in ["xtask/src/a.rs", "tests/src/a.rs"] {
            assert_eq!(lines(path, &format!("{code}{tests}")), NONE, "{path}");
            assert_eq!(lines(path, &too_long), [1], "{path}");
        }
    }

    #[test]
    fn file_of_tests_may_be_longer_but_not_endless() {
        let tests = "fn a() {}\n".repeat(MAX_TEST_LINES);
        assert_eq!(lines("tests/tests/cli.rs", &tests), NONE);
        assert_eq!(
            lines("tests/tests/cli.rs", &format!("{tests}fn b() {{}}\n")),
            [1]
        );
    }

    #[test]
    fn blanks_at_line_ends_and_tabs_are_found() {
        let found = |path, text| check_text(path, text).len();
        assert_eq!(found("README.md", "a \nb\t\n\tc\n"), 2);
        assert_eq!(found("xtask/src/a.rs", "\ta\n"), 1);
    }
}
