//! `balancer top` in a terminal: it shows what is wrong as it comes, keys lead
//! to it, and it leaves the terminal as it was.
//!
//! With `BALANCER_PICTURES` set to a directory, the picture of the
//! documentation is written there; that takes minutes, for its time lines.

use std::fmt::Write as _;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use balancer_tests::balancer::binary;
use balancer_tests::lab::terminal::Terminal;
use balancer_tests::lab::wait_for;
use balancer_user::watch::Kind;

use crate::LIMIT;
use crate::fixture::{balancer, l2, load_of, wait_answers, web_servers};
use crate::incidents::opened;
use crate::page::{keep, pictures, web_and_shop};
use crate::verify::Kernel;

/// Rows and columns.
const SIZE: (NonZeroU16, NonZeroU16) =
    (NonZeroU16::new(26).unwrap(), NonZeroU16::new(126).unwrap());

#[test]
fn live_screen_shows_a_skew_as_it_comes_and_keys_lead_to_it() -> Result<()> {
    let lab = l2(4)?;
    let _servers = web_servers(&lab)?;
    let mut text = String::from("table_size = 4099\nrepair_drift = false\n");
    let services = web_and_shop(&lab);
    for service in &services {
        writeln!(text, "{}", service.toml())?;
    }
    let balancer = balancer(&lab, &text)?;
    let loads = services.iter().map(|service| {
        let mut load = load_of(&lab, service.dial());
        load.pause = Duration::from_millis(30);
        load.start(lab.client(0).namespace())
    });
    let loads = loads.collect::<Result<Vec<_>>>()?;
    for load in &loads {
        wait_answers(load, 300)?;
    }
    let socket = balancer.socket();
    let arguments = ["--socket", &socket.to_string_lossy(), "top"];
    let mut top = Terminal::start(&binary(), &arguments, SIZE)?;
    top.wait("two services that are well", LIMIT, |screen| {
        screen.starts_with("all 2 services up, 6 of 6 backends") && screen.contains("shop ")
    })?;
    top.press("/web\r\r")?;
    top.wait("the backends of the service", LIMIT, |screen| {
        screen.contains("seen, | expected") && screen.contains("backend3")
    })?;
    if pictures().is_some() {
        let (began, minutes) = (Instant::now(), Duration::from_secs(130));
        wait_for("time lines", 2 * minutes, || {
            (began.elapsed() > minutes).then_some(())
        })?;
    }

    // Shares are of what came since: a change begins them anew.
    balancer.succeed(&["backend", "weight", "web", "backend0", "101"])?;
    top.wait("the second revision", LIMIT, |screen| {
        screen.contains("revision 2 ")
    })?;
    Kernel::of(&balancer)?.change_slots_of_many(6)?;
    opened(&balancer, Kind::Skew, Some("backend2"))?;
    let screen = top.wait("the skew", 2 * LIMIT, |screen| {
        !screen.starts_with("all ") && screen.contains(" skew  service web: backend backend2")
    })?;
    // The whole command is there, however long the line before it is.
    ensure!(screen.contains("   try balancer verify"), "{screen}");
    // It gets far more than its mark has it.
    top.wait("the share of the one that gets most", 4 * LIMIT, |screen| {
        let mut rows = screen.lines().filter(|row| row.contains("backend2   "));
        rows.any(|row| row.matches('█').count() > 20 && row.contains('┃'))
    })?;
    let picture = top.picture("balancer top: a backend gets more than its share");
    keep(picture.as_bytes(), "top.svg")?;

    // Back, to all services, and out.
    top.press("\x1b")?;
    top.wait("the services", LIMIT, |screen| {
        screen.contains("its backends")
    })?;
    top.press("q")?;
    let status = top.process().wait(LIMIT)?;
    ensure!(status.success(), "{status}");
    let left = top.text();
    ensure!(!left.contains("services"), "it left its screen:\n{left}");
    for load in loads {
        load.stop()?;
    }
    Ok(())
}
