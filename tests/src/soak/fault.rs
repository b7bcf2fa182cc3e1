//! What happens to the balancer, its host and its servers in a soak.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::changes::Changes;
use super::scene::{Crowd, LIMIT, OF_API, SHARED, Scene, Service};
use crate::balancer::binary;
use crate::frames::Rng;
use crate::lab::{Mac, link, wait_for};
use crate::tamper::Kernel;

/// Answers of each service while a fault lasts that harms nobody.
const MEANWHILE: u64 = 300;
/// What a wrong change is forced past.
const ALLOWED: [&str; 5] = [
    "blast-radius",
    "churn",
    "dominant-backend",
    "single-backend",
    "table-share",
];
/// Readers that never read, and askers that ask for something at a time.
const MUTE: usize = 40;
const ASKERS: usize = 8;
const QUESTIONS: usize = 100;

/// One kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The daemon ends by SIGTERM, and another begins.
    Stopped,
    /// The same by SIGKILL.
    Killed,
    /// The same by SIGUSR2, as in an upgrade.
    HandedOver,
    /// SIGKILL, and the next one reads another file.
    FileChanged,
    /// A web server dies, and comes back.
    ServerDies,
    /// A web server accepts and says nothing, then goes on.
    ServerHangs,
    /// A host falls silent, and comes back.
    HostSilent,
    /// A host has another MAC, and tells nobody.
    MacChanged,
    /// Both servers of `api` die, and come back.
    AllDead,
    /// The balancer's interface goes down, and up.
    InterfaceDown,
    /// It is deleted, and one of the same name is made.
    InterfaceDeleted,
    /// Its MTU becomes smaller, and what it was.
    MtuChanged,
    /// Somebody else writes to the kernel's tables.
    TableAltered,
    /// The state directory's disk is full, then has room.
    DiskFull,
    /// It is read-only, then not.
    DiskReadOnly,
    /// Many ask the daemon at once, some of them never read the answer.
    Pestered,
    /// A change that does harm is forced past the checks.
    WrongChange,
}

/// Who may notice a fault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Harm {
    /// Services whose requests may fail while it lasts.
    pub services: BTreeSet<Service>,
    /// Servers whose connections may break.
    pub servers: BTreeSet<String>,
}

impl Fault {
    /// Those that end the daemon.
    pub const ENDING: [Self; 4] = [
        Self::Stopped,
        Self::Killed,
        Self::HandedOver,
        Self::FileChanged,
    ];
    /// Those that one daemon sees through.
    pub const LIVED_THROUGH: [Self; 13] = [
        Self::ServerDies,
        Self::ServerHangs,
        Self::HostSilent,
        Self::MacChanged,
        Self::AllDead,
        Self::InterfaceDown,
        Self::InterfaceDeleted,
        Self::MtuChanged,
        Self::TableAltered,
        Self::DiskFull,
        Self::DiskReadOnly,
        Self::Pestered,
        Self::WrongChange,
    ];

    /// What it is, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Stopped => "daemon stopped and started",
            Self::Killed => "daemon killed and started",
            Self::HandedOver => "daemon handed over, as in an upgrade",
            Self::FileChanged => "daemon killed, started with another file",
            Self::ServerDies => "a web server killed and started",
            Self::ServerHangs => "a web server accepts and is silent, then goes on",
            Self::HostSilent => "a backend's link down and up",
            Self::MacChanged => "a backend's MAC changed and changed back, unannounced",
            Self::AllDead => "all web servers of a service killed and started",
            Self::InterfaceDown => "the balancer's interface down and up",
            Self::InterfaceDeleted => "the balancer's interface deleted and made anew",
            Self::MtuChanged => "the interface's MTU lowered and raised",
            Self::TableAltered => "the kernel's table altered from outside",
            Self::DiskFull => "the state directory's disk full, then room again",
            Self::DiskReadOnly => "the state directory read-only, then writable",
            Self::Pestered => "crowds on the socket, readers that never read",
            Self::WrongChange => "a lopsided change forced past the checks",
        }
    }

    /// Why requests may fail in it; nothing where none may.
    pub fn eats(self) -> Option<&'static str> {
        match self {
            Self::ServerDies | Self::ServerHangs | Self::HostSilent => {
                Some("those with the server, until it was out of the table")
            }
            Self::MacChanged => Some("frames to an address nobody has, until it was found anew"),
            Self::TableAltered => {
                Some("flows under way went to another server, until the table was right again")
            }
            Self::AllDead => Some("every backend of the service was down"),
            Self::InterfaceDown | Self::InterfaceDeleted => Some("no packet came in or went out"),
            _ => None,
        }
    }

    /// Brings it about, waits until the balancer has dealt with it where it
    /// can, and mends what was broken.
    pub(super) fn play(
        self,
        scene: &mut Scene<'_>,
        crowd: &Crowd,
        changes: &Changes,
        rng: &mut Rng,
    ) -> Result<Harm> {
        match self {
            Self::Stopped | Self::Killed | Self::HandedOver | Self::FileChanged => {
                self.another_daemon(scene, crowd)?;
                Ok(Harm::default())
            }
            Self::ServerDies | Self::ServerHangs | Self::HostSilent | Self::MacChanged => {
                self.lose_one(scene, crowd, rng.below(SHARED))
            }
            Self::AllDead => all_dead(scene, crowd),
            Self::InterfaceDown | Self::InterfaceDeleted => self.no_interface(scene, crowd),
            Self::MtuChanged => {
                let namespace = scene.lab.balancer().namespace();
                for mtu in [1400, scene.lab.balancer().interface().mtu] {
                    link::set_mtu(namespace, "eth0", mtu)?;
                    crowd.wait_answers(MEANWHILE)?;
                }
                Ok(Harm::default())
            }
            Self::TableAltered => {
                Kernel::of(&scene.balancer)?.change_slots_of_many(7)?;
                crowd.wait_answers(MEANWHILE)?;
                Ok(Harm {
                    services: [Service::Web, Service::Six].into(),
                    servers: BTreeSet::new(),
                })
            }
            Self::DiskFull => {
                scene.disk.fill()?;
                changes.wait_more(3)?;
                crowd.wait_answers(MEANWHILE)?;
                scene.disk.make_room()?;
                Ok(Harm::default())
            }
            Self::DiskReadOnly => {
                scene.disk.set_read_only(true)?;
                changes.wait_more(3)?;
                crowd.wait_answers(MEANWHILE)?;
                scene.disk.set_read_only(false)?;
                Ok(Harm::default())
            }
            Self::Pestered => {
                pester(scene)?;
                Ok(Harm::default())
            }
            Self::WrongChange => {
                wrong_change(scene, changes)?;
                Ok(Harm::default())
            }
        }
    }

    fn another_daemon(self, scene: &mut Scene<'_>, crowd: &Crowd) -> Result<()> {
        match self {
            Self::Stopped => scene.balancer.stop()?,
            Self::HandedOver => {
                scene.balancer.signal(Signal::SIGUSR2)?;
                let status = scene.balancer.process().wait(LIMIT)?;
                ensure!(status.success(), "it ended with {status}");
            }
            _ => scene.balancer.kill()?,
        }
        crowd.wait_answers(MEANWHILE)?;
        if self == Self::FileChanged {
            scene.write_other_file()?;
        }
        scene.balancer.restart()
    }

    fn no_interface(self, scene: &mut Scene<'_>, crowd: &Crowd) -> Result<Harm> {
        let namespace = scene.lab.balancer().namespace();
        let before = crowd.failed();
        match self {
            Self::InterfaceDeleted => scene.lab.unplug_balancer()?,
            _ => link::down(namespace, "eth0")?,
        }
        wait_for("clients to notice", LIMIT, || {
            let failed = crowd.failed();
            Service::ALL
                .iter()
                .all(|it| failed[it] > before[it])
                .then_some(())
        })?;
        match self {
            Self::InterfaceDeleted => scene.make_interface()?,
            _ => link::up(namespace, "eth0")?,
        }
        Ok(Harm {
            services: Service::ALL.into(),
            servers: BTreeSet::new(),
        })
    }

    /// Loses one of the servers that two services share.
    fn lose_one(self, scene: &mut Scene<'_>, crowd: &Crowd, number: usize) -> Result<Harm> {
        let node = scene.lab.backend(number);
        let (namespace, mac) = (node.namespace(), node.mac());
        let harm = Harm {
            services: [Service::Web, Service::Six].into(),
            servers: [node.name().to_owned()].into(),
        };
        let server = &mut scene.servers[number].server;
        match self {
            Self::ServerDies => server.kill()?,
            Self::ServerHangs => server.pause()?,
            Self::HostSilent => link::down(scene.lab.switch().namespace(), node.name())?,
            _ => {
                let mut other = mac.0;
                other[5] ^= 0x55;
                link::set_mac(namespace, "eth0", Mac(other))?;
            }
        }
        // It is the balancer that ends the failures, not who mends the server.
        crowd.wait_unharmed().context("while the server is lost")?;
        match self {
            Self::ServerDies => server.restart()?,
            Self::ServerHangs => server.resume()?,
            Self::HostSilent => link::up(scene.lab.switch().namespace(), node.name())?,
            _ => link::set_mac(namespace, "eth0", mac)?,
        }
        Ok(harm)
    }
}

fn all_dead(scene: &mut Scene<'_>, crowd: &Crowd) -> Result<Harm> {
    let own = SHARED..SHARED + OF_API;
    for number in own.clone() {
        scene.servers[number].server.kill()?;
    }
    crowd.wait_answers_of(&[Service::Web, Service::Six], MEANWHILE)?;
    scene
        .balancer
        .wait_status("a service without a backend", LIMIT, |status| {
            let mut incidents = status.incidents.iter();
            incidents.any(|it| it.service == "api").then_some(())
        })?;
    for number in own {
        scene.servers[number].server.restart()?;
    }
    Ok(Harm {
        services: [Service::Api].into(),
        servers: BTreeSet::new(),
    })
}

/// Asks for much at once, and leaves the answers where they are.
fn pester(scene: &Scene<'_>) -> Result<()> {
    let socket = scene.balancer.socket();
    let ask = |path: &str| -> Result<UnixStream> {
        let mut stream = UnixStream::connect(&socket)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: balancer\r\n\r\n");
        // The daemon may have enough of us.
        let _ = stream.write_all(request.repeat(20).as_bytes());
        Ok(stream)
    };
    let mute: Vec<UnixStream> = (0..MUTE)
        .map(|turn| ask(["/v1/events?follow=true", "/v1/status"][turn % 2]))
        .collect::<Result<_>>()?;
    let garbage = UnixStream::connect(&socket).and_then(|mut it| it.write_all(&[0xff; 4096]));
    // It may be closed before all was said.
    drop(garbage);
    std::thread::scope(|scope| {
        let askers = (0..ASKERS).map(|_| {
            scope.spawn(|| -> Result<()> {
                for _ in 0..QUESTIONS / ASKERS {
                    scene.balancer.status()?;
                }
                Ok(())
            })
        });
        let askers: Vec<_> = askers.collect();
        askers.into_iter().try_for_each(|asker| {
            asker
                .join()
                .map_err(|_| anyhow::anyhow!("an asker panicked"))?
        })
    })?;
    drop(mute);
    Ok(())
}

fn wrong_change(scene: &Scene<'_>, changes: &Changes) -> Result<()> {
    let file = scene.balancer.config().with_file_name("wrong.toml");
    fs::write(&file, scene.wrong_file()?)?;
    let file = file.to_str().context("a path that is no text")?;
    let mut arguments = vec!["apply", "--yes", "--hold", "10s"];
    arguments.extend(ALLOWED.iter().flat_map(|rule| ["--allow", *rule]));
    arguments.push(file);
    let _alone = changes.pause();
    let output = scene
        .balancer
        .command(&arguments)
        .with_context(|| format!("running {}", binary().display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && said.contains("undone"),
        "it was not undone: {}: {said}",
        output.status
    );
    Ok(())
}
