//! `balancer`, but that it kills itself at a moment of a change.
//!
//! While the file named by `MORTAL_ORDERS` exists, each moment from the first
//! [`Moment::Accepted`] on (what is before it belongs to rehearsals) is
//! appended to the file of that name with `.passed` behind it. If the orders
//! are a moment and a number, such as `StageBegan 2`, the process ends itself
//! by SIGKILL when it passes that moment for that time since the orders were
//! given; with `panic` behind it, it panics there.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{ExitCode, id};
use std::sync::Mutex;

use balancer_user::moment::{self, Moment};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The orders that hold, and the moments passed since they were given.
static PASSED: Mutex<(String, Vec<Moment>)> = Mutex::new((String::new(), Vec::new()));

fn main() -> ExitCode {
    moment::listen(pass);
    balancer_user::cli::main()
}

fn pass(moment: Moment) {
    let Some(path) = std::env::var_os("MORTAL_ORDERS") else {
        return;
    };
    let path = Path::new(&path);
    let Ok(orders) = fs::read_to_string(path) else {
        return;
    };
    let mut passed = PASSED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if passed.0 != orders {
        *passed = (orders.clone(), Vec::new());
    }
    if passed.1.is_empty() && moment != Moment::Accepted {
        return;
    }
    passed.1.push(moment);
    let times = passed.1.iter().filter(|it| **it == moment).count();
    let noted = File::options()
        .create(true)
        .append(true)
        .open(path.with_extension("passed"))
        .and_then(|mut file| writeln!(file, "{moment:?}"));
    if let Err(error) = noted {
        eprintln!("mortal: {moment:?} is not noted: {error}");
    }
    if orders.trim() == format!("{moment:?} {times} panic") {
        drop(passed);
        panic!("ordered to, at {moment:?}");
    }
    if orders.trim() == format!("{moment:?} {times}") {
        eprintln!("mortal: process {} ends at {moment:?}", id());
        // Not by abort or exit: nothing may be cleaned up.
        let _ = kill(Pid::this(), Signal::SIGKILL);
        loop {
            std::thread::park();
        }
    }
}
