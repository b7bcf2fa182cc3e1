//! `balancer top`: a live screen of services, backends and incidents.
//!
//! What is shown and what keys do is in [`state`], how it looks in [`draw`];
//! both are pure. Here are the terminal and the daemon. Nothing can be changed
//! from the screen.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, bail};
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt;
use tokio::time::MissedTickBehavior;

use self::state::{Next, Top};
use super::{Exit, block_on};
use crate::api::client::Client;

mod draw;
mod state;

#[cfg(test)]
mod tests;

/// How often the daemon is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Watch services, backends and incidents on a live screen
///
/// The first line says whether it is the load balancer. Enter shows a
/// service's backends: the share of the slots each is expected to get, and
/// what it got since the table last changed, as a bar with a mark where it
/// should end. Nothing can be changed here.
///
/// Keys: arrows or j and k to choose, Enter to look closer, Esc to go back, /
/// to filter by name, address or state, s for another order, q to leave.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: &Args, client: &Client) -> anyhow::Result<Exit> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!(
            "`balancer top` is a screen and needs a terminal; `balancer status` prints the same, \
             and `balancer status --json` is for programs"
        );
    }
    // Who cannot ask is told on the screen that he has.
    let first = block_on(client.status())??;
    let mut top = Top::default();
    top.take(Ok(first));
    let mut terminal = ratatui::try_init().context("taking the terminal")?;
    let watched = block_on(watch(&mut terminal, &mut top, client));
    ratatui::restore();
    watched??;
    Ok(Exit::Done)
}

/// Asks, draws and hears keys until the viewer leaves.
async fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    top: &mut Top,
    client: &Client,
) -> anyhow::Result<()> {
    let mut keys = EventStream::new();
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // A daemon that is slow to answer does not make the keys wait.
    let mut asked = None;
    loop {
        terminal
            .draw(|frame| draw::draw(frame, top))
            .context("drawing")?;
        tokio::select! {
            _ = tick.tick(), if asked.is_none() => asked = Some(Box::pin(client.status())),
            answer = answered(&mut asked) => {
                asked = None;
                top.take(answer.map_err(|error| error.to_string()));
            }
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    if top.press(key) == Next::Leave {
                        return Ok(());
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("reading keys"),
                // Nobody is there any more.
                None => return Ok(()),
            },
        }
    }
}

async fn answered<F: Future + Unpin>(asked: &mut Option<F>) -> F::Output {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}
