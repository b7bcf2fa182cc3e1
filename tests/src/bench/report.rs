//! The tables on the terminal.

use super::footprint::Amount;
use super::machine::Machine;
use super::packets::{Figure, Floors};
use super::requests::{Account, Requests};
use super::spread::Spread;
use super::{changes, forwarding, scale};

pub(super) fn machine(machine: &Machine) {
    let clock = machine
        .megahertz
        .map(|clock| format!(", {clock:.0} MHz"))
        .unwrap_or_default();
    println!(
        "{}, {} CPUs{clock}, Linux {} {}",
        machine.cpu_model, machine.cpus, machine.kernel, machine.architecture
    );
}

/// What is subtracted, and the heading of the cases.
pub(super) fn floors(floors: &Floors) {
    println!(
        "\nThe loop itself takes {:.1} ns a packet (subtracted below); moving the head {:.1} ns \
         (part of every case that encapsulates, not subtracted).\n",
        floors.empty_nanos.median, floors.move_nanos.median
    );
    println!(
        "{:<52} {:>7}  {:>13}  {:>9}  {:>7}",
        "case", "net ns", "10 % - 90 %", "reference", "limit"
    );
}

/// One line, as soon as it is known: a full run takes a while.
pub(super) fn packet(figure: &Figure) {
    let net = &figure.net_nanos;
    let of_reference = figure
        .of_reference
        .map(|ratio| format!("{ratio:.2} x"))
        .unwrap_or_default();
    let limit = figure
        .limit_nanos
        .map(|limit| format!("{limit:.1}"))
        .unwrap_or_default();
    let mark = mark(figure.is_met());
    let line = format!(
        "{:<52} {:>7.1}  {:>5.1} - {:>5.1}  {of_reference:>9}  {limit:>7}  {mark}",
        figure.case, net.median, net.p10, net.p90
    );
    println!("{}", line.trim_end());
}

fn mark(is_met: Option<bool>) -> &'static str {
    match is_met {
        None => "",
        Some(true) => "met",
        Some(false) => "NOT MET",
    }
}

pub(super) fn footprint(amounts: &[Amount]) {
    println!(
        "\n{:<58} {:>9}  {:>15}  {:>9}  {:>9}",
        "the loaded program", "", "10 % - 90 %", "reference", "limit"
    );
    for amount in amounts {
        let number = |value: f64| match amount.unit {
            "" => format!("{value:.0}"),
            unit => format!("{value:.1} {unit}"),
        };
        let of_reference = amount
            .reference
            .map(|reference| format!("{:.3} x", amount.amount / reference))
            .unwrap_or_default();
        let line = format!(
            "{:<58} {:>9}  {:>15}  {of_reference:>9}  {:>9}  {}",
            amount.what,
            number(amount.amount),
            amount.spread.map(deciles).unwrap_or_default(),
            amount.limit.map(number).unwrap_or_default(),
            mark(amount.is_met())
        );
        println!("{}", line.trim_end());
    }
}

pub(super) fn forwarding(figures: &[forwarding::Figure]) {
    println!(
        "\n{:<42} {:>5} {:>10}  {:>13}  {:>11}  {:>8}",
        "forwarding", "cores", "packets/s", "10 % - 90 %", "made apart", "nftables"
    );
    for figure in figures {
        let millions = |rate: f64| format!("{:.2} M", rate / 1e6);
        let spread = figure.packets_per_second;
        let line = format!(
            "{:<42} {:>5} {:>10}  {:>13}  {:>11}  {:>8}  {}",
            figure.who,
            figure.cores,
            millions(figure.packets_per_second.median),
            format!("{:.2} - {:.2}", spread.p10 / 1e6, spread.p90 / 1e6),
            figure
                .forwarded_per_second
                .map(millions)
                .unwrap_or_default(),
            figure
                .of_nftables
                .map(|ratio| format!("{ratio:.1} x"))
                .unwrap_or_default(),
            mark(figure.is_met())
        );
        println!("{}", line.trim_end());
    }
}

pub(super) fn requests(requests: &Requests) {
    if requests.account == Account::Processes {
        println!(
            "\nOther things keep {:.1} CPUs busy: rates of requests are worth little, and CPU time \
             is that of the processes alone.",
            requests.background_cpus
        );
    }
    println!(
        "\n{:<18} {:<20} {:>8} {:>15} {:>7} {:>7} {:>15} {:>7} {:>6} {:>8}",
        "load",
        "through",
        "a second",
        "10 % - 90 %",
        "Mbit/s",
        "CPU us",
        "10 % - 90 %",
        "added",
        "own",
        "HAProxy"
    );
    for figure in &requests.figures {
        let line = format!(
            "{:<18} {:<20} {:>8.0} {:>15} {:>7.0} {:>7.1} {:>15} {:>7.1} {:>6} {:>8}  {}",
            figure.load,
            figure.who,
            figure.per_second.median,
            format!(
                "{:.0} - {:.0}",
                figure.per_second.p10, figure.per_second.p90
            ),
            figure.megabits_per_second.median,
            figure.cpu_micros.median,
            deciles(figure.cpu_micros),
            figure.added_micros,
            figure
                .own_micros
                .map(|own| format!("{own:.1}"))
                .unwrap_or_default(),
            figure
                .of_haproxy
                .map(|share| format!("{share:.2} x"))
                .unwrap_or_default(),
            mark(figure.is_met())
        );
        println!("{}", line.trim_end());
    }
}

pub(super) fn changes(figures: &[changes::Figure]) {
    println!("\n{:<60} {:>10}  {:>17}", "change", "median", "10 % - 90 %");
    for figure in figures {
        let millis = figure.micros.scaled(1e-3);
        println!(
            "{:<60} {:>7.3} ms  {:>17}",
            figure.what,
            millis.median,
            format!("{:.3} - {:.3}", millis.p10, millis.p90)
        );
    }
}

pub(super) fn daemon(what: &str, figures: &[scale::Figure]) {
    println!(
        "\n{:<60} {:>10}  {:>15}  {:>9}",
        what, "median", "10 % - 90 %", "limit"
    );
    for figure in figures {
        let number = |value: f64| format!("{value:.2} {}", figure.unit);
        let spread = match figure.amount.rounds {
            1 => String::new(),
            _ => format!("{:.2} - {:.2}", figure.amount.p10, figure.amount.p90),
        };
        let line = format!(
            "{:<60} {:>10}  {spread:>15}  {:>9}  {}",
            figure.what,
            number(figure.amount.median),
            figure.limit.map(number).unwrap_or_default(),
            mark(figure.is_met())
        );
        println!("{}", line.trim_end());
    }
}

fn deciles(spread: Spread) -> String {
    format!("{:.1} - {:.1}", spread.p10, spread.p90)
}
