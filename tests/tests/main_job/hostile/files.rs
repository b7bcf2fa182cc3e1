//! Its file, with whatever may be in it or in its place.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use balancer_tests::frames::Rng;
use balancer_user::api::progress::Progress;
use balancer_user::api::types::{ApplyRequest, How};
use balancer_user::config::{self, model::Config};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::bed::{Bed, Ground};
use crate::random_changes::number;

/// Files without `BALANCER_TEST_HOSTILE`, a hundredth of it otherwise.
const FILES: u64 = 200;

const WORDS: &[&str] = &[
    "\"",
    "'''",
    "[[",
    "]]",
    "[node]",
    "[[service]]",
    "=",
    "\n",
    "\0",
    "\u{feff}",
    "#",
    "1e99",
    "-1",
    "4294967296",
    "true",
    "{}",
    "[]",
    "port",
    "weight",
    "\\u0000",
    "interval = \"0s\"",
    "name = \"web\"",
];

/// Services that nobody asks: what is drawn may change them.
const SPARE: usize = 4;

fn spare() -> String {
    let mut text = String::new();
    for at in 0..SPARE {
        let _ = write!(
            text,
            "\n[[service]]\nname = \"spare{at}\"\naddress = \"198.18.7.{at}\"\nport = 8080\n\
             protocol = \"tcp\"\nforward = \"ipip\"\nallow = [\"no-health-check\"]\n\
             allow_reason = \"nobody asks it\"\n"
        );
        for backend in 1..=8 {
            let _ = write!(
                text,
                "\n[[service.backend]]\nname = \"b{backend}\"\naddress = \
                 \"198.18.{}.{backend}\"\nweight = 100\n",
                20 + at
            );
        }
    }
    text
}

/// A text with parts of it, and of another one, changed.
fn mutate(rng: &mut Rng, base: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = base.to_vec();
    let changes = if rng.chance(60) { 1 } else { 1 + rng.below(4) };
    for _ in 0..changes {
        let at = rng.below(bytes.len().max(1)).min(bytes.len());
        let end = (at + 1 + rng.below(40)).min(bytes.len());
        match rng.below(9) {
            0 if at < bytes.len() => bytes[at] = rng.byte(),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let word = rng.pick(WORDS);
                bytes.splice(at..at, word.bytes());
            }
            3 => {
                let from = rng.below(other.len());
                let to = (from + 1 + rng.below(200)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            5 => bytes.truncate(at),
            _ => {
                let digit = rng.byte() % 10 + b'0';
                let digits: Vec<usize> = (0..bytes.len())
                    .filter(|at| bytes[*at].is_ascii_digit())
                    .collect();
                if let Some(at) = digits.get(rng.below(digits.len().max(1))) {
                    bytes[*at] = digit;
                }
            }
        }
    }
    bytes
}

fn accepted(text: &[u8]) -> Option<Config> {
    let text = str::from_utf8(text).ok()?;
    let examined = config::examine("drawn.toml", text, None);
    examined.config.filter(|_| !examined.report.has_errors())
}

/// Whether the load's service stays as it is.
fn is_harmless(drawn: &Config, base: &Config) -> bool {
    drawn.service("web") == base.service("web")
}

/// Has the file read; what became of it, or why it was refused.
fn reload(bed: &Bed<'_>) -> Result<Result<Progress, String>> {
    Ok(match bed.api.reload() {
        Ok(last) => Ok(last),
        Err(error) => Err(error.to_string()),
    })
}

/// Brings a text into force again, however far the way to it is.
fn bring_back(bed: &Bed<'_>, text: &[u8]) -> Result<()> {
    let allow = ["blast-radius", "churn", "undrains", "table-share"];
    let request = ApplyRequest {
        name: "back.toml".to_owned(),
        text: str::from_utf8(text)?.to_owned(),
        how: How {
            allow: allow.map(ToOwned::to_owned).into(),
            reason: Some("back to where it began".to_owned()),
            ..How::default()
        },
    };
    bed.api.apply(&request, &mut |_| {}).map(drop)
}

fn revision(bed: &Bed<'_>) -> Result<Option<u64>> {
    Ok(bed.api.status()?.revision)
}

#[test]
fn files_that_were_drawn_are_refused_by_name_or_come_into_force_whole() -> Result<()> {
    let seed = number("BALANCER_TEST_SEED", 1)?;
    let files = number("BALANCER_TEST_HOSTILE", FILES * 100)? / 100;
    let ground = Ground::new()?;
    let mut bed = Bed::start_with(&ground, "table_size = 4099\n", &spare())?;
    let base = fs::read(bed.path())?;
    let running = accepted(&base).context("the file itself")?;
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/config");
    let mut seeds: Vec<Vec<u8>> = fs::read_dir(seeds)?
        .map(|entry| Ok(fs::read(entry?.path())?))
        .collect::<Result<_>>()?;
    seeds.sort();
    let mut rng = Rng::new(seed);
    let (mut refused, mut taken, mut left_out) = (0, 0, 0);
    while refused + taken < files {
        let other = &seeds[rng.below(seeds.len())];
        let from = if rng.chance(10) { other } else { &base };
        let text = mutate(&mut rng, from, other);
        // What would be taken and moves the load's service is no fault.
        if accepted(&text).is_some_and(|it| !is_harmless(&it, &running)) {
            left_out += 1;
            continue;
        }
        let shown = || format!("seed {seed}: {}", String::from_utf8_lossy(&text));
        let before = revision(&bed)?;
        fs::write(bed.path(), &text)?;
        match reload(&bed)? {
            Err(why) => {
                ensure!(!why.is_empty() && revision(&bed)? == before, "{}", shown());
                refused += 1;
            }
            Ok(last) => {
                ensure!(accepted(&text).is_some(), "{last:?}: {}", shown());
                taken += 1;
                let back = bring_back(&bed, &base);
                back.with_context(shown)?;
            }
        }
    }
    println!("seed {seed}: {refused} files refused, {taken} taken, {left_out} not asked");
    ensure!(refused > 0 && taken > 0);
    fs::write(bed.path(), &base)?;
    ensure!(reload(&bed)?.is_ok());
    bed.expect_changes()?;
    bed.end()
}

/// Something in the place of a file, and a word of why it is refused.
type Oddity = (&'static str, fn(&Path) -> Result<()>, &'static str);

const ODDITIES: &[Oddity] = &[
    ("nothing", |_| Ok(()), "No such file"),
    ("a directory", |it| Ok(fs::create_dir(it)?), "a directory"),
    (
        "a pipe that nobody writes to",
        |it| Ok(mkfifo(it, Mode::S_IRUSR | Mode::S_IWUSR)?),
        "a pipe",
    ),
    (
        "a socket",
        |it| Ok(UnixListener::bind(it).map(drop)?),
        "a socket",
    ),
    (
        "zeros without an end",
        |it| Ok(symlink("/dev/zero", it)?),
        "a device",
    ),
    ("a loop", |it| Ok(symlink(it, it)?), "symbolic links"),
    (
        "100 MB",
        |it| Ok(File::create(it)?.set_len(100_000_000)?),
        "is larger than",
    ),
    (
        "no UTF-8",
        |it| Ok(fs::write(it, b"[node]\n\xff\xfe")?),
        "not UTF-8 at byte 7",
    ),
    ("NUL bytes", |it| Ok(fs::write(it, [0; 5000])?), ""),
    ("nothing in it", |it| Ok(fs::write(it, "")?), ""),
    (
        "brackets in brackets",
        |it| Ok(fs::write(it, format!("a = {}", "[".repeat(500_000)))?),
        "",
    ),
    (
        "tables in tables",
        |it| Ok(fs::write(it, format!("a = {}", "{a=".repeat(500_000)))?),
        "",
    ),
    (
        "keys of a million parts",
        |it| Ok(fs::write(it, format!("{}a = 1", "a.".repeat(1_000_000)))?),
        "",
    ),
    ("services without number", services, ""),
];

/// As many as fit into a file.
fn services(path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "[node]\ninterfaces = [\"eth0\"]")?;
    for at in 0..150_000_u32 {
        let [_, high, middle, low] = at.to_be_bytes();
        writeln!(
            file,
            "[[service]]\nname = \"s{at}\"\naddress = \"10.{high}.{middle}.{low}\"\nport = 80\n\
             protocol = \"tcp\""
        )?;
    }
    Ok(file.flush()?)
}

#[test]
fn whatever_is_in_the_file_s_place_is_refused_by_name_and_nobody_waits() -> Result<()> {
    let ground = Ground::new()?;
    let bed = Bed::start(&ground, "")?;
    let base = fs::read(bed.path())?;
    for (what, make, word) in ODDITIES {
        let path = bed.path();
        fs::remove_file(&path)?;
        make(&path).with_context(|| (*what).to_owned())?;
        let output = bed.balancer.command(&["reload"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{what}: {}", said.lines().next().unwrap_or_default());
        ensure!(output.status.code() == Some(1), "{what}: {output:?}");
        ensure!(!said.is_empty() && said.contains(word), "{what}: {said}");
        let shown = path.as_os_str().as_bytes();
        let by_name = String::from_utf8_lossy(shown).into_owned();
        ensure!(said.contains(&by_name), "{what}: {said}");
        bed.balancer.succeed(&["status"])?;
        if path.is_dir() {
            fs::remove_dir(&path)?;
        } else {
            fs::remove_file(&path).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
        }
        fs::write(&path, &base)?;
        let back = reload(&bed)?;
        ensure!(
            matches!(back, Ok(Progress::Nothing { .. })),
            "{what}: {back:?}"
        );
    }
    bed.end()
}

/// Another text of the same meaning is a revision, too.
fn changes_nothing(last: &Progress) -> bool {
    match last {
        Progress::Nothing { .. } => true,
        Progress::Over { revision } => {
            let plan = revision.plan.as_ref();
            plan.is_some_and(|plan| plan["has_changes"] == false)
        }
        _ => false,
    }
}

#[test]
fn file_that_is_written_while_it_is_read_is_taken_whole_or_refused() -> Result<()> {
    let ground = Ground::new()?;
    let mut bed = Bed::start(&ground, "")?;
    let base = fs::read(bed.path())?;
    let longer = [base.as_slice(), "# padding\n".repeat(2000).as_bytes()].concat();
    let over = AtomicBool::new(false);
    let (mut whole, mut refused) = (0, 0);
    thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for text in [&base, &longer] {
                    let _ = fs::write(bed.path(), text);
                }
            }
        });
        let read = (0..200).try_for_each(|_| {
            match reload(&bed)? {
                Ok(last) => {
                    ensure!(changes_nothing(&last), "{last:?}");
                    whole += 1;
                }
                Err(why) => {
                    ensure!(!why.is_empty());
                    refused += 1;
                }
            }
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        read
    })?;
    println!("{whole} times whole, {refused} times refused");
    fs::write(bed.path(), &base)?;
    ensure!(reload(&bed)?.is_ok());
    bed.expect_changes()?;
    bed.end()
}
