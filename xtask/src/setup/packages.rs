//! The programs that lab and tests call, and the packages they are in.
//!
//! What counts is that the program is there, not which package brought it: a
//! machine with another nginx keeps its own.

use std::path::Path;
use std::process::Command;

use super::{Outcome, Policy, Report, Scope, apt};
use crate::process::find_program;

const NAME: &str = "programs";

/// A program and the packages that have it, as each distribution calls them;
/// [`UNPACKAGED`] where it has none.
struct Program {
    command: &'static str,
    scope: Scope,
    apt: &'static str,
    dnf: &'static str,
    pacman: &'static str,
}

/// Instead of a package.
const UNPACKAGED: &str = "";

const fn lab(
    command: &'static str,
    apt: &'static str,
    dnf: &'static str,
    pacman: &'static str,
) -> Program {
    Program {
        command,
        scope: Scope::Lab,
        apt,
        dnf,
        pacman,
    }
}

const fn test(
    command: &'static str,
    apt: &'static str,
    dnf: &'static str,
    pacman: &'static str,
) -> Program {
    Program {
        scope: Scope::Test,
        ..lab(command, apt, dnf, pacman)
    }
}

const fn bench(command: &'static str, package: &'static str) -> Program {
    Program {
        command,
        scope: Scope::Bench,
        apt: package,
        dnf: package,
        pacman: package,
    }
}

const PROGRAMS: &[Program] = &[
    // For the C in the TLS library.
    lab("cc", "gcc libc6-dev", "gcc glibc-devel", "gcc"),
    lab("ip", "iproute2", "iproute", "iproute2"),
    lab("ethtool", "ethtool", "ethtool", "ethtool"),
    lab("ping", "iputils-ping", "iputils", "iputils"),
    lab("nft", "nftables", "nftables", "nftables"),
    lab("tcpdump", "tcpdump", "tcpdump", "tcpdump"),
    // Reads what `balancer capture` writes.
    lab("tshark", "tshark", "wireshark-cli", "wireshark-cli"),
    lab("nginx", "nginx-light", "nginx", "nginx"),
    lab("curl", "curl", "curl", "curl"),
    lab("wrk", "wrk", "wrk", "wrk"),
    lab("iperf3", "iperf3", "iperf3", "iperf3"),
    lab("dnsmasq", "dnsmasq-base", "dnsmasq", "dnsmasq"),
    lab("dig", "bind9-dnsutils", "bind-utils", "bind"),
    lab(
        PYTHON_GRPC,
        "python3-grpcio",
        "python3-grpcio",
        "python-grpcio",
    ),
    // Fedora and Arch have the library alone.
    lab("gtlsserver", "ngtcp2-server", UNPACKAGED, UNPACKAGED),
    lab("gtlsclient", "ngtcp2-client", UNPACKAGED, UNPACKAGED),
    // What metrics and rules are checked with, and who scrapes and alerts. The
    // package has promtool as well.
    lab(
        "prometheus",
        "prometheus",
        "golang-github-prometheus",
        "prometheus",
    ),
    lab(
        "prometheus-alertmanager",
        "prometheus-alertmanager",
        UNPACKAGED,
        UNPACKAGED,
    ),
    // What the status page is looked at with.
    test("chromium", "chromium", "chromium", "chromium"),
    // Sets one daemon's clock.
    test("faketime", "faketime", "libfaketime", "libfaketime"),
    // The package is made, judged and installed with these.
    test("dpkg-shlibdeps", "dpkg-dev", "dpkg-dev", "dpkg"),
    test("lintian", "lintian", UNPACKAGED, UNPACKAGED),
    test("systemd-analyze", "systemd", "systemd", "systemd"),
    // libFuzzer is C++.
    test("c++", "g++", "gcc-c++", "gcc"),
    bench("haproxy", "haproxy"),
    Program {
        command: NGINX_STREAM,
        scope: Scope::Bench,
        apt: "libnginx-mod-stream",
        dnf: "nginx-mod-stream",
        pacman: "nginx-mod-stream",
    },
];

/// No program but a module of one.
const NGINX_STREAM: &str = "ngx_stream_module.so";
/// What the lab's gRPC server imports, of which protobuf comes along.
const PYTHON_GRPC: &str = "python3 grpc";
/// Packages install modules for this one, whichever stands first on the PATH.
const PYTHON: &str = "/usr/bin/python3";

/// Whether the program, or the module, is there.
fn is_installed(command: &str) -> bool {
    match command {
        NGINX_STREAM => nginx_streams().unwrap_or(false),
        PYTHON_GRPC => Command::new(PYTHON)
            .args(["-c", "import grpc, google.protobuf"])
            .output()
            .is_ok_and(|output| output.status.success()),
        _ => find_program(command).is_some(),
    }
}

/// Whether nginx has its stream proxy, built in or as a module.
fn nginx_streams() -> Option<bool> {
    let output = Command::new(find_program("nginx")?)
        .arg("-V")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let built_in = text.split_whitespace().any(|word| word == "--with-stream");
    let mut words = text.split_whitespace();
    let modules = words.find_map(|word| word.strip_prefix("--modules-path="));
    let module = modules.map(|path| Path::new(path).join(NGINX_STREAM));
    Some(built_in || module.is_some_and(|path| path.exists()))
}

/// The package managers whose commands we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manager {
    Apt,
    Dnf,
    Pacman,
}

impl Manager {
    /// The one of this machine.
    pub(super) fn detect() -> Option<Self> {
        let known = [
            ("apt-get", Self::Apt),
            ("dnf", Self::Dnf),
            ("pacman", Self::Pacman),
        ];
        known
            .into_iter()
            .find(|(name, _)| find_program(name).is_some())
            .map(|(_, it)| it)
    }

    fn package(self, program: &Program) -> &'static str {
        match self {
            Self::Apt => program.apt,
            Self::Dnf => program.dnf,
            Self::Pacman => program.pacman,
        }
    }

    fn packages(self, programs: &[&Program]) -> Vec<&'static str> {
        let named = programs.iter().map(|it| self.package(it));
        named
            .filter(|package| *package != UNPACKAGED)
            .flat_map(|package| package.split(' '))
            .collect()
    }

    fn install_command(self) -> &'static str {
        match self {
            Self::Apt => "apt-get install --no-remove --no-install-recommends",
            Self::Dnf => "dnf install",
            Self::Pacman => "pacman -S --needed",
        }
    }
}

/// Finds or installs them, with a line for the report.
pub(super) fn ensure(scope: Scope, policy: Policy, report: &mut Report) {
    let wanted = PROGRAMS.iter().filter(|it| it.scope <= scope);
    ensure_all(wanted.collect(), policy, report);
}

/// As [`ensure`], for the programs of these names.
pub(super) fn ensure_only(commands: &[&str], policy: Policy, report: &mut Report) {
    let wanted = PROGRAMS.iter().filter(|it| commands.contains(&it.command));
    ensure_all(wanted.collect(), policy, report);
}

fn ensure_all(wanted: Vec<&Program>, policy: Policy, report: &mut Report) {
    let (found, missing): (Vec<&Program>, Vec<&Program>) =
        wanted.into_iter().partition(|it| is_installed(it.command));
    if !found.is_empty() {
        report.item(NAME, Outcome::Found(commands(&found)));
    }
    if !missing.is_empty() {
        let outcome = fetch(&missing, policy, report);
        report.item(NAME, outcome);
    }
}

fn fetch(missing: &[&Program], policy: Policy, report: &Report) -> Outcome {
    let names = commands(missing);
    let Some(manager) = Manager::detect() else {
        return Outcome::Missing(format!(
            "{names}: install them with this system's package manager"
        ));
    };
    let packages = manager.packages(missing);
    let advice = format!("`{} {}`", manager.install_command(), packages.join(" "));
    if manager != Manager::Apt {
        return Outcome::Missing(by_hand(manager, missing));
    }
    if !policy.root {
        return Outcome::NeedsRoot(format!("{names}: {advice}"));
    }
    if !policy.install {
        return Outcome::Missing(format!("{names}: {advice}"));
    }
    report.note(&format!("installing {}", packages.join(" ")));
    match apt::install(&packages) {
        Ok(quieted) if quieted.is_empty() => Outcome::Installed(names),
        Ok(quieted) => Outcome::Installed(format!("{names}; kept off: {}", quieted.join(" "))),
        Err(error) => Outcome::Missing(format!("{names}: {error:#}")),
    }
}

/// What to do where setup installs nothing.
fn by_hand(manager: Manager, missing: &[&Program]) -> String {
    let (packaged, unpackaged): (Vec<&Program>, Vec<&Program>) = missing
        .iter()
        .partition(|it| manager.package(it) != UNPACKAGED);
    let mut advice = Vec::new();
    if !packaged.is_empty() {
        advice.push(format!(
            "{}: setup installs on Debian only; run `{} {}`",
            commands(&packaged),
            manager.install_command(),
            manager.packages(&packaged).join(" ")
        ));
    }
    if !unpackaged.is_empty() {
        advice.push(format!(
            "{}: no package of this system has them; build them from source and put them on the \
             PATH (gtlsserver and gtlsclient are examples of ngtcp2, built with GnuTLS, libev and \
             nghttp3)",
            commands(&unpackaged)
        ));
    }
    advice.join("; ")
}

fn commands(programs: &[&Program]) -> String {
    programs
        .iter()
        .map(|it| it.command)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: Program = lab("no-such-program-anywhere", "absent", "absent", "absent");

    #[test]
    fn plain_user_is_sent_to_root_with_the_command() {
        if Manager::detect() != Some(Manager::Apt) {
            println!("skipped: this machine has no apt-get");
            return;
        }
        let policy = Policy {
            install: true,
            root: false,
        };
        let Outcome::NeedsRoot(text) = fetch(&[&ABSENT], policy, &Report::default()) else {
            panic!("without root nothing can be installed");
        };
        assert!(text.ends_with("--no-install-recommends absent`"), "{text}");
    }

    #[test]
    fn dry_run_installs_nothing() {
        let policy = Policy {
            install: false,
            root: true,
        };
        let outcome = fetch(&[&ABSENT], policy, &Report::default());
        assert!(matches!(outcome, Outcome::Missing(_)));
    }

    #[test]
    fn program_without_a_package_is_said_to_need_building() {
        let gtls: Vec<&Program> = PROGRAMS
            .iter()
            .filter(|it| it.command.starts_with("gtls") || it.command == "curl")
            .collect();
        for manager in [Manager::Dnf, Manager::Pacman] {
            let advice = by_hand(manager, &gtls);
            let command = format!("{} curl`", manager.install_command());
            assert!(advice.contains(&command), "{advice}");
            assert!(
                advice.contains("gtlsserver gtlsclient: no package"),
                "{advice}"
            );
        }
    }

    #[test]
    fn debian_has_a_package_for_everything() {
        assert!(PROGRAMS.iter().all(|it| it.apt != UNPACKAGED));
    }

    #[test]
    fn tests_do_not_ask_for_what_only_the_benchmark_uses() {
        let lab: Vec<&str> = PROGRAMS
            .iter()
            .filter(|it| it.scope <= Scope::Lab)
            .map(|it| it.command)
            .collect();
        assert!(
            lab.contains(&"nginx") && !lab.contains(&"haproxy"),
            "{lab:?}"
        );
    }
}
