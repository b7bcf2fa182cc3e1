//! What the fuzz targets share.
//!
//! A target is one file in `fuzz_targets`: a function that takes any bytes and
//! panics when something that must hold does not, and [`target!`]. Built by
//! cargo-fuzz it is driven by libFuzzer; built by anything else it is a
//! program that runs the files it is given, and its tests replay the seeds.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

pub mod control;
pub mod findings;
pub mod model;

/// Makes a target of a function: `target!("packet", check)`, where the name is
/// that of the file and of the directory with its seeds.
#[macro_export]
macro_rules! target {
    ($name:literal, $check:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $check(data));

        #[cfg(not(fuzzing))]
        fn main() {
            let files: Vec<_> = std::env::args_os().skip(1).map(Into::into).collect();
            $crate::replay(&files, $check);
        }

        #[cfg(test)]
        mod replay {
            #[test]
            fn seeds_hold() {
                $crate::replay(&$crate::seeds($name), super::$check);
            }
        }
    };
}

/// The seeds of a target, by name.
///
/// # Panics
/// When it has none.
pub fn seeds(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; a target begins with seeds",
            directory.display()
        )
    });
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{}: no seed", directory.display());
    files
}

/// Runs a target once with each file.
///
/// # Panics
/// When the target does, also in a task of its own, or a file cannot be read.
pub fn replay(files: &[PathBuf], check: fn(&[u8])) {
    static PANICKED: AtomicBool = AtomicBool::new(false);
    static HOOK: Once = Once::new();
    // A runtime keeps the panics of its tasks to itself.
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICKED.store(true, Ordering::SeqCst);
            usual(info);
        }));
    });
    for file in files {
        let data = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let result = panic::catch_unwind(|| check(&data));
        let panicked = PANICKED.swap(false, Ordering::SeqCst);
        assert!(
            result.is_ok() && !panicked,
            "{} does not hold",
            file.display()
        );
    }
}
