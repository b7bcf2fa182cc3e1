//! Three namespaces in a row: a generator, somebody who forwards, an end.
//!
//! ```text
//!   generator  g0 ------ in0  middle  out0 ------ s0  end
//!              g1 ------ in1          out1 ------ s1        (a lane for each core)
//! ```
//!
//! The generator's frames are made in the kernel and sent as a driver sends
//! them. A lane is used by one core only: its frames are made, received,
//! forwarded and counted there.

use std::process::Stdio;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use balancer_user::dataplane::bench::{HotLoop, Sink};

use super::super::machine::stay_on;
use super::super::packets::datagrams_to;
use crate::balancer::Balancer;
use crate::lab::Namespace;
use crate::lab::cleanup::unique_name;
use crate::lab::link::{self, End, Mac};
use crate::lab::pass::{self, Action, Attached};

/// Backends of each lane.
const BACKENDS: u8 = 16;
/// Flows of each lane.
const FLOWS: u64 = 1024;
const MTU: u32 = 1600;

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forwarder {
    /// Nobody: frames end where they come in. What making and receiving them
    /// costs.
    Nobody,
    /// The balancer, by that mode.
    Balancer(&'static str),
    /// The host's stack, by nftables DNAT.
    Nftables,
}

/// The namespaces, joined.
pub(super) struct Place {
    generator: Namespace,
    middle: Namespace,
    end: Namespace,
    lanes: usize,
}

/// A place with somebody who forwards.
pub(super) struct Bed<'a> {
    place: &'a Place,
    lanes: Vec<Lane>,
    counts: Count,
    // Alive as long as the bed is.
    _balancer: Option<Balancer<'a>>,
    _passes: Vec<Attached>,
}

struct Lane {
    hot: HotLoop,
    interface: u32,
    // Without a program the generator's end takes no frames to send.
    _sender: Sink,
}

/// How frames that arrive are counted.
enum Count {
    Sinks(Vec<Sink>),
    /// By the end's interfaces: they drop what is for another address.
    Interfaces,
}

/// Sends and counts, for a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) received: u64,
    pub(super) took: Duration,
}

impl Place {
    pub(super) fn build(lanes: usize) -> Result<Self> {
        let name = unique_name();
        let create = |part: &str| Namespace::create(&format!("{name}-{part}"));
        let (generator, middle, end) = (create("generator")?, create("middle")?, create("end")?);
        middle.set_sysctls(&[
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
        ])?;
        for lane in 0..lanes as u8 {
            join(&generator, "g", &middle, "in", lane)?;
            join(&middle, "out", &end, "s", lane)?;
            address(&middle, lane)?;
        }
        Ok(Self {
            generator,
            middle,
            end,
            lanes,
        })
    }
}

impl<'a> Bed<'a> {
    pub(super) fn build(place: &'a Place, forwarder: Forwarder) -> Result<Self> {
        let Place { middle, lanes, .. } = place;
        let mut passes = Vec::new();
        let mut balancer = None;
        let counts = match forwarder {
            Forwarder::Nobody => Count::Sinks(sinks(middle, "in", *lanes)?),
            Forwarder::Balancer(mode) => {
                balancer = Some(start(middle, mode, *lanes)?);
                Count::Sinks(sinks(&place.end, "s", *lanes)?)
            }
            Forwarder::Nftables => {
                translate(middle, *lanes)?;
                for lane in 0..*lanes {
                    passes.push(pass::attach(middle, &format!("in{lane}"), Action::Pass)?);
                }
                Count::Interfaces
            }
        };
        let lanes = (0..*lanes)
            .map(|lane| Lane::open(&place.generator, lane))
            .collect::<Result<_>>()?;
        Ok(Self {
            place,
            lanes,
            counts,
            _balancer: balancer,
            _passes: passes,
        })
    }

    /// Sends frames on every lane at once, each on the CPU of its number.
    pub(super) fn turn(&mut self, cpus: &[usize], frames: u32) -> Result<Turn> {
        let before = self.received()?;
        let generator = &self.place.generator;
        let together = Barrier::new(self.lanes.len());
        let took = std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .lanes
                .iter_mut()
                .zip(cpus)
                .map(|(lane, cpu)| {
                    let together = &together;
                    scope.spawn(move || {
                        generator.run(|| {
                            stay_on(*cpu)?;
                            together.wait();
                            let began = Instant::now();
                            lane.hot.send(lane.interface, frames)?;
                            Ok::<_, anyhow::Error>(began.elapsed())
                        })?
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().map_err(std::panic::resume_unwind)?)
                .collect::<Result<Vec<Duration>>>()
        })?;
        let received = self.received()? - before;
        let sent = u64::from(frames) * self.lanes.len() as u64;
        // The last batch may still be on its way.
        ensure!(
            received * 100 >= sent * 99,
            "{received} of {sent} frames arrived"
        );
        Ok(Turn {
            received,
            took: took.into_iter().max().context("no lane")?,
        })
    }

    fn received(&self) -> Result<u64> {
        match &self.counts {
            Count::Sinks(sinks) => {
                let counts = sinks.iter().map(|sink| Ok(sink.received()?));
                counts.sum()
            }
            Count::Interfaces => (0..self.lanes.len())
                .map(|lane| Ok(link::counters(&self.place.end, &format!("s{lane}"))?.rx_packets))
                .sum(),
        }
    }
}

impl Lane {
    fn open(generator: &Namespace, lane: usize) -> Result<Self> {
        let interface = link::index(generator, &format!("g{lane}"))?;
        let stimulus = datagrams_to(
            &format!("{}:80", vip(lane as u8)),
            FLOWS,
            mac("in", lane as u8).0,
        );
        Ok(Self {
            hot: HotLoop::generator(&stimulus)?,
            interface,
            _sender: generator.run(|| Sink::attach(interface))??,
        })
    }
}

fn vip(lane: u8) -> String {
    format!("192.0.2.{}", lane + 1)
}

fn backend(lane: u8, index: u8) -> String {
    format!("172.16.{lane}.{}", index + 2)
}

fn mac(end: &str, lane: u8) -> Mac {
    let number = match end {
        "g" => 1,
        "in" => 2,
        "out" => 3,
        "s" => 4,
        _ => 5,
    };
    Mac([2, 0xbe, 0, 0, number, lane])
}

fn join(a: &Namespace, a_name: &str, b: &Namespace, b_name: &str, lane: u8) -> Result<()> {
    let (left, right) = (format!("{a_name}{lane}"), format!("{b_name}{lane}"));
    let end = |namespace, name, mac| End {
        namespace,
        name,
        mac,
        mtu: MTU,
    };
    link::veth(
        &end(a, &left, mac(a_name, lane)),
        &end(b, &right, mac(b_name, lane)),
    )?;
    link::up(a, &left)?;
    link::up(b, &right)
}

fn address(middle: &Namespace, lane: u8) -> Result<()> {
    let (inside, out) = (format!("in{lane}"), format!("out{lane}"));
    link::add_address(middle, &inside, [198, 18, lane, 1].into(), 24)?;
    link::add_address(middle, &out, [172, 16, lane, 1].into(), 24)?;
    for index in 0..BACKENDS {
        let address = backend(lane, index).parse()?;
        link::add_neighbour(middle, &out, address, mac("backend", lane))?;
    }
    Ok(())
}

fn sinks(namespace: &Namespace, name: &str, lanes: usize) -> Result<Vec<Sink>> {
    (0..lanes)
        .map(|lane| {
            let interface = link::index(namespace, &format!("{name}{lane}"))?;
            Ok(namespace.run(|| Sink::attach(interface))??)
        })
        .collect()
}

fn start<'a>(middle: &'a Namespace, mode: &str, lanes: usize) -> Result<Balancer<'a>> {
    let mut services = String::new();
    for lane in 0..lanes as u8 {
        services.push_str(&format!(
            "[[service]]\nname = \"lane-{lane}\"\naddress = \"{}\"\nport = 80\n\
             protocol = \"udp\"\nforward = \"{mode}\"\n",
            vip(lane)
        ));
        for index in 0..BACKENDS {
            services.push_str(&format!(
                "[[service.backend]]\nname = \"b{index}\"\naddress = \"{}\"\n",
                backend(lane, index)
            ));
        }
    }
    let interfaces: Vec<String> = (0..lanes).map(|lane| format!("in{lane}")).collect();
    let interfaces: Vec<&str> = interfaces.iter().map(String::as_str).collect();
    Balancer::start(middle, &interfaces, &services).context("starting the balancer")
}

/// What an administrator would write: each new flow to a backend by hash.
fn translate(middle: &Namespace, lanes: usize) -> Result<()> {
    let mut rules = String::from(
        "table ip nat {\n  chain prerouting {\n    type nat hook prerouting priority dstnat;\n",
    );
    for lane in 0..lanes as u8 {
        let map: Vec<String> = (0..BACKENDS)
            .map(|index| format!("{index} : {}", backend(lane, index)))
            .collect();
        rules.push_str(&format!(
            "    ip daddr {} udp dport 80 dnat to jhash ip saddr . udp sport mod {BACKENDS} \
             map {{ {} }}\n",
            vip(lane),
            map.join(", ")
        ));
    }
    rules.push_str("  }\n}\n");
    let mut command = middle.command("nft");
    command
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run nft")?;
    std::io::Write::write_all(
        &mut child.stdin.take().context("no pipe")?,
        rules.as_bytes(),
    )?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "nft refused the rules: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
