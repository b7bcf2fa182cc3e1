//! A Rust file, line by line, split into code and comments.
//!
//! No parser: just enough of the language's surface (strings, raw strings,
//! characters against lifetimes, nested comments) to tell what a word is part
//! of. Columns are kept: what does not belong to a part is blank in it.

/// One Rust file.
pub(super) struct Source {
    /// Relative to the root, with slashes.
    pub(super) path: String,
    pub(super) lines: Vec<Line>,
}

/// One line of it, in parts.
pub(super) struct Line {
    /// Without comments and without what stands in quotes.
    pub(super) code: String,
    /// Comments only.
    pub(super) comment: String,
    /// Held to the rules of tests.
    pub(super) is_test: bool,
    /// Inside an item that only tests compile, or in a file of tests.
    pub(super) is_test_item: bool,
}

impl Source {
    /// Splits `text`; any text will do, also one that does not compile.
    pub(super) fn parse(path: &str, text: &str) -> Self {
        let (code, comment) = Splitter::split(text);
        let all_items = path.contains("/tests/") || code.contains("#![cfg(test)]");
        // The lab serves tests only, but is built like any library.
        let all_test = path.starts_with("tests/");
        let marks = test_lines(&code);
        let lines = code
            .lines()
            .zip(comment.lines())
            .zip(marks)
            .map(|((code, comment), marked)| Line {
                code: code.to_owned(),
                comment: comment.to_owned(),
                is_test: all_test || all_items || marked,
                is_test_item: all_items || marked,
            })
            .collect();
        Self {
            path: path.to_owned(),
            lines,
        }
    }

    /// Modules in files of their own that this file declares for tests only:
    /// their paths, without `.rs`.
    pub(super) fn test_modules(&self) -> Vec<String> {
        let file = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        // The modules of `a/mod.rs` are in `a/`, those of `a.rs` too.
        let dir = ["/mod", "/lib", "/main"]
            .iter()
            .find_map(|name| file.strip_suffix(name))
            .unwrap_or(file);
        let tests = self.lines.iter().filter(|line| line.is_test_item);
        tests
            .filter_map(|line| declared_module(&line.code))
            .map(|name| format!("{dir}/{name}"))
            .collect()
    }

    /// Makes all of it test code when it is, or is part of, one of `modules`.
    pub(super) fn mark_if_among(&mut self, modules: &[String]) {
        let among = modules.iter().any(|module| {
            let rest = self.path.strip_prefix(module.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
        if among {
            for line in &mut self.lines {
                line.is_test = true;
                line.is_test_item = true;
            }
        }
    }
}

/// The name in `mod name;`, whatever stands before it.
fn declared_module(code: &str) -> Option<&str> {
    let words = code.trim().strip_suffix(';')?;
    let (before, name) = words.rsplit_once(' ')?;
    before.ends_with("mod").then_some(name)
}

/// For each line whether it is part of an item under `#[cfg(test)]`.
///
/// The item ends with the brace that closes its first one, or, where a
/// semicolon comes before any brace, with that.
fn test_lines(code: &str) -> Vec<bool> {
    let mut marks = Vec::new();
    // Depth of braces inside a test item; `None` outside.
    let mut inside: Option<usize> = None;
    for line in code.lines() {
        let attribute = ["#[cfg(test)]", "#[cfg(all(test,"]
            .iter()
            .find_map(|it| line.find(it));
        let start = match (inside, attribute) {
            (Some(_), _) => 0,
            (None, Some(at)) => {
                inside = Some(0);
                at
            }
            (None, None) => {
                marks.push(false);
                continue;
            }
        };
        marks.push(true);
        for letter in line[start..].chars() {
            inside = match (inside, letter) {
                (Some(depth), '{') => Some(depth + 1),
                (Some(0 | 1), '}') | (Some(0), ';') => None,
                (Some(depth), '}') => Some(depth - 1),
                (other, _) => other,
            };
        }
    }
    marks
}

/// What the letter at hand is part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    Comment,
    /// Between quotes, the quotes included.
    Quoted,
}

/// Walks over a text and deals its letters out.
struct Splitter {
    letters: Vec<char>,
    at: usize,
    code: String,
    comment: String,
}

impl Splitter {
    /// The text twice: its code, its comments; both with all line ends.
    fn split(text: &str) -> (String, String) {
        let letters = text.chars().collect();
        let mut this = Self {
            letters,
            at: 0,
            code: String::new(),
            comment: String::new(),
        };
        while this.at < this.letters.len() {
            this.step();
        }
        (this.code, this.comment)
    }

    fn step(&mut self) {
        match (self.peek(0), self.peek(1)) {
            (Some('/'), Some('/')) => self.line_comment(),
            (Some('/'), Some('*')) => self.block_comment(),
            (Some('"'), _) => self.string(),
            (Some('r'), Some('"' | '#')) if self.at_literal() => self.raw_string(),
            (Some('\''), Some('\\')) => self.escaped_character(),
            (Some('\''), Some(_)) if self.peek(2) == Some('\'') => self.take(3, Part::Quoted),
            _ => self.take(1, Part::Code),
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.letters.get(self.at + ahead).copied()
    }

    fn take(&mut self, count: usize, part: Part) {
        for _ in 0..count {
            let Some(letter) = self.peek(0) else { return };
            self.at += 1;
            let pick = |wanted: Part| {
                if letter == '\n' || part == wanted {
                    letter
                } else {
                    ' '
                }
            };
            self.code.push(pick(Part::Code));
            self.comment.push(pick(Part::Comment));
        }
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|letter| letter != '\n') {
            self.take(1, Part::Comment);
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.take(2, Part::Comment);
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.take(2, Part::Comment);
                }
                (Some(_), _) => self.take(1, Part::Comment),
                (None, _) => return,
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        self.take(1, Part::Quoted);
        while let Some(letter) = self.peek(0) {
            self.take(if letter == '\\' { 2 } else { 1 }, Part::Quoted);
            if letter == '"' {
                return;
            }
        }
    }

    /// Is this `r` the start of a literal, and not the end of a name?
    fn at_literal(&self) -> bool {
        let hashes = self.hashes();
        let before = self.at.checked_sub(1).and_then(|at| self.letters.get(at));
        let starts = before.is_none_or(|it| !it.is_alphanumeric() && *it != '_')
            || matches!(before, Some('b' | 'c'));
        starts && self.peek(1 + hashes) == Some('"')
    }

    fn hashes(&self) -> usize {
        self.letters[self.at + 1..]
            .iter()
            .take_while(|letter| **letter == '#')
            .count()
    }

    fn raw_string(&mut self) {
        let hashes = self.hashes();
        self.take(hashes + 2, Part::Quoted);
        while let Some(letter) = self.peek(0) {
            let closes = letter == '"' && (1..=hashes).all(|ahead| self.peek(ahead) == Some('#'));
            if closes {
                return self.take(1 + hashes, Part::Quoted);
            }
            self.take(1, Part::Quoted);
        }
    }

    fn escaped_character(&mut self) {
        // The quote, the backslash and what it escapes, which may be a quote.
        self.take(3, Part::Quoted);
        while let Some(letter) = self.peek(0) {
            self.take(1, Part::Quoted);
            if letter == '\'' {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        let words: Vec<String> = Splitter::split(text)
            .0
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        words.join(" ")
    }

    fn comment(text: &str) -> String {
        Splitter::split(text).1.trim().to_owned()
    }

    #[test]
    fn comments_are_no_code() {
        for (text, expected) in [
            ("a; // unsafe", "a;"),
            ("/// unsafe\na;", "a;"),
            ("a /* b /* c */ d */ e", "a e"),
            ("a /* never closed", "a"),
        ] {
            assert_eq!(code(text), expected, "{text}");
        }
        assert_eq!(comment("a; // b \"c\""), "// b \"c\"");
    }

    #[test]
    fn quoted_text_is_neither() {
        for (text, expected) in [
            (r#"f("unsafe // no", a)"#, "f( , a)"),
            (r#"f("\"unsafe\\", a)"#, "f( , a)"),
            (r##"f(r#"a "b" c"#, a)"##, "f( , a)"),
            (r#"f(br"a\", a)"#, "f(b , a)"),
            ("f('\"', a)", "f( , a)"),
            (r"f('\'', a)", "f( , a)"),
            (r"f('\u{7f}', a)", "f( , a)"),
        ] {
            assert_eq!(code(text), expected, "{text}");
            assert_eq!(comment(text), "", "{text}");
        }
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        for text in [
            "fn a<'a>(b: &'a str) {}",
            "let r#type = var;",
            "'outer: loop {}",
        ] {
            assert_eq!(code(text), text);
        }
    }

    #[test]
    fn test_items_end_with_their_brace() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n";
        let marks: Vec<bool> = Source::parse("x/src/a.rs", text)
            .lines
            .iter()
            .map(|it| it.is_test)
            .collect();
        assert_eq!(marks, [false, true, true, true, true, true, false]);
    }

    #[test]
    fn tests_crate_is_all_test_code() {
        for (path, text) in [
            ("tests/src/lab.rs", "fn a() {}"),
            ("x/tests/a.rs", "fn a() {}"),
            ("x/src/a.rs", "#![cfg(test)] fn a() {}"),
        ] {
            assert!(Source::parse(path, text).lines[0].is_test, "{path}");
        }
    }

    #[test]
    fn module_that_only_tests_compile_is_known_by_its_declaration() {
        let text = "#[cfg(test)]\npub(crate) mod fake;\nmod real;\n";
        let parent = Source::parse("x/src/a.rs", text);
        let modules = parent.test_modules();
        assert_eq!(modules, ["x/src/a/fake"]);
        for (path, expected) in [
            ("x/src/a/fake.rs", true),
            ("x/src/a/fake/server.rs", true),
            ("x/src/a/fakes.rs", false),
            ("x/src/a/real.rs", false),
        ] {
            let mut source = Source::parse(path, "fn a() {}");
            source.mark_if_among(&modules);
            assert_eq!(source.lines[0].is_test, expected, "{path}");
        }
        let root = Source::parse("x/src/lib.rs", "#[cfg(test)]\nmod tests;\n");
        assert_eq!(root.test_modules(), ["x/src/tests"]);
    }

    #[test]
    fn declaration_of_a_test_module_ends_with_its_line() {
        let text = "#[cfg(test)]\nmod tests;\nfn a() {\n}\n";
        let source = Source::parse("x/src/a.rs", text);
        let marks: Vec<bool> = source.lines.iter().map(|it| it.is_test).collect();
        assert_eq!(marks, [true, true, false, false]);
    }
}
