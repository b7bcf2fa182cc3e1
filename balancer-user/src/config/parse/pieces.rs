//! Reads a large file service by service.
//!
//! All tables of a file of 100,000 backends, with the place of each value,
//! take twenty times the memory of its text. So the text is cut where a
//! service begins, and each piece is read and forgotten. This is for files
//! without a fault: wherever something is to be said, or a piece could mean
//! another thing than it does in its file, nothing is read here, and the file
//! is read as a whole. Pieces are read on all CPUs.

use std::collections::HashSet;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::fields::{Names, Path, Step};
use super::sink::Sink;
use super::{MAX_SERVICES, Parsed, file, service};
use crate::config::model::Service;
use crate::config::spans::{ServiceSpans, Spans, TableSpans};
use crate::parallel;

/// Shorter files are read as a whole: that they cost little.
const LEAST: usize = 1 << 16;
/// What a service begins with, at the beginning of a line.
const HEADER: &str = "[[service]]";

/// The file, if it is large and has no fault.
pub(super) fn parse(source: &str) -> Option<Parsed> {
    (source.len() >= LEAST).then(|| read(source)).flatten()
}

fn read(source: &str) -> Option<Parsed> {
    // A string of several lines may have any of them in it.
    if source.contains("\"\"\"") || source.contains("'''") {
        return None;
    }
    let starts = starts(source);
    let first = *starts.first()?;
    if starts.len() > MAX_SERVICES {
        return None;
    }
    let (mut sink, mut spans) = (Sink::default(), Spans::default());
    let (head, faults) = DeTable::parse_recoverable(&source[..first]);
    if !faults.is_empty() || head.get_ref().contains_key("service") {
        return None;
    }
    let mut config = file(head.get_ref(), &mut spans, &mut sink)?.config;
    if !sink.findings.is_empty() {
        return None;
    }
    let ends = starts.iter().skip(1).copied().chain([source.len()]);
    let ranges = starts.iter().copied().zip(ends).map(|(from, to)| from..to);
    let pieces = parallel::map(ranges.enumerate().collect(), |(index, range)| {
        piece(source, index, range)
    });
    let mut names = HashSet::new();
    for (index, piece) in pieces.into_iter().enumerate() {
        let piece = piece?;
        if !names.insert(piece.service.name.clone()) {
            return None;
        }
        config.services.push(piece.service);
        spans.services.push(piece.spans);
        if index == 0 {
            spans.top.values.push(("service", piece.place));
        }
    }
    Some(Parsed {
        config: Some(config),
        spans,
        sound: None,
        findings: Vec::new(),
    })
}

/// A service as it was read.
struct Piece {
    service: Service,
    spans: ServiceSpans,
    /// Where it stands in the file.
    place: Range<usize>,
}

/// The service that stands there and nowhere else, if it has no fault.
fn piece(source: &str, index: usize, range: Range<usize>) -> Option<Piece> {
    let start = range.start;
    let (piece, faults) = DeTable::parse_recoverable(&source[range]);
    let table = piece.get_ref();
    let value = table.get("service").filter(|_| table.len() == 1)?;
    let DeValue::Array(tables) = value.get_ref() else {
        return None;
    };
    let (Some(entry), 1, true) = (tables.first(), tables.len(), faults.is_empty()) else {
        return None;
    };
    let table = entry.get_ref().as_table()?;
    let root = Path {
        parent: None,
        step: Step::Root,
    };
    let (mut names, mut sink) = (Names::default(), Sink::default());
    let header = entry.span();
    let (read, mut spans) = service::service(table, header, index, &root, &mut names, &mut sink);
    shift(&mut spans, start);
    let there = value.span();
    Some(Piece {
        service: read.filter(|_| sink.findings.is_empty())?,
        spans,
        place: there.start + start..there.end + start,
    })
}

/// Where the lines begin that begin a service.
fn starts(source: &str) -> Vec<usize> {
    let is_start = |at: &usize| {
        let before = &source[..*at];
        let line = before.rfind('\n').map_or(0, |newline| newline + 1);
        before[line..].trim_matches([' ', '\t']).is_empty()
    };
    let found = source.match_indices(HEADER).map(|(at, _)| at);
    found.filter(is_start).collect()
}

fn shift(spans: &mut ServiceSpans, by: usize) {
    let move_on = |range: &mut Range<usize>| *range = range.start + by..range.end + by;
    let tables = [&mut spans.table, &mut spans.health];
    for TableSpans { header, values } in tables.into_iter().chain(&mut spans.backends) {
        header.iter_mut().for_each(move_on);
        values.iter_mut().for_each(|(_, range)| move_on(range));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::config::testing::SAMPLE;

    /// As the other way reads it.
    fn assert_is_read_alike(source: &str) {
        let pieces = read(source).unwrap();
        let whole = parse::whole(source);
        assert!(whole.findings.is_empty(), "{:?}", whole.findings);
        assert_eq!(pieces.config, whole.config);
        assert_eq!(format!("{:?}", pieces.spans), format!("{:?}", whole.spans));
    }

    fn service(name: &str) -> String {
        format!(
            "  [[service]] # {name}\nname = \"{name}\"\naddress = \"192.0.2.10\"\nport = 80\n\
             protocol = \"tcp\"\nforward = \"l2\"\nallowed_backends = [\n  \"10.0.0.0/24\",\n]\n\
             [service.health]\nkind = \"tcp\"\n\
             [[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n\
             [[service.backend]]\nname = \"c\" # [[service]]\naddress = \"10.0.0.2\"\n"
        )
    }

    const NODE: &str = "based_on = 3\n[node]\ninterfaces = [\"eth0\"]\n[apply]\nhold = \"1s\"\n";

    #[test]
    fn file_is_read_in_pieces_as_it_is_as_a_whole() {
        assert_is_read_alike(SAMPLE);
        assert_is_read_alike(&format!("{NODE}{}", service("web").replace('\n', "\r\n")));
        let many: String = (0..700).map(|at| service(&format!("s{at}"))).collect();
        let many = format!("{NODE}{many}");
        assert!(many.len() > LEAST);
        assert_is_read_alike(&many);
        assert_eq!(parse::parse(&many).config, parse::whole(&many).config);
    }

    #[test]
    fn whatever_needs_a_word_or_the_whole_file_is_left_to_that() {
        let good = format!("{NODE}{}{}", service("a"), service("b"));
        assert!(read(&good).is_some());
        for (from, to) in [
            ("name = \"b\"", "name = \"a\""),
            ("name = \"b\"", "name = \"b"),
            ("name = \"b\"", "name = \"b\"\nname = \"c\""),
            ("name = \"b\"", "name = \"\"\"b\"\"\""),
            ("name = \"b\"", "name = '''b'''"),
            ("name = \"b\"", "nome = \"b\""),
            ("name = \"b\"", "name = \"b\"\n[node]\n"),
            ("name = \"b\"", "name = \"b\"\n[service]\n"),
            ("based_on = 3", "service = []"),
            ("based_on = 3", "based_on = [\n"),
            ("[node]", "[nodes]"),
            ("  [[service]] # b", "[[service]] b"),
            ("  [[service]] # b", "[[ service ]]"),
            ("forward = \"l2\"", "forward = \"l3\""),
        ] {
            assert!(good.contains(from));
            let text = good.replacen(from, to, 1);
            assert!(read(&text).is_none(), "{to}");
            let (parsed, whole) = (parse::parse(&text), parse::whole(&text));
            assert_eq!(parsed.config, whole.config);
        }
        assert!(read(NODE).is_none());
    }
}
