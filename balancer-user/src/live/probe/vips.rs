//! Asks each backend for the service's address, in the frame that the
//! balancer would send it.
//!
//! TCP services get a SYN, which is reset when it is answered; UDP services
//! have no question that every server answers, so the address is pinged.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use balancer_common::layout::Member;
use tokio::time::Instant;

use super::super::host::VipAnswer;
use super::frames::{self, AnswerKind, Mark, Probe};
use super::sockets::{Listener, Wanted};
use super::{BURST, BURST_PAUSE, PAUSE, pause};
use crate::config::model::{Backend, Config, Protocol, Service};
use crate::daemon::hops::{self, Found};
use crate::member::Hop;
use crate::netlink::Link;
use crate::packet_socket::Sender;
use crate::probe::vip::{NoRoad, Surroundings, road};

/// How often a silent backend is asked.
const TRIES: u32 = 3;
/// For the last answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Ports that probes come from: the dynamic range (RFC 6335, 6).
const FIRST_PORT: u16 = 49_152;
const PORTS: usize = 16_384;
/// What is asked of a service on any port, whose probe names none.
const SOME_PORT: u16 = 80;

/// Service and backend by their places in the file.
type Place = (usize, usize);

/// A backend to be asked.
struct Question {
    place: Place,
    probe: Probe,
    interface: String,
    member: Member,
    hash: u64,
}

/// What there is to ask, and what cannot be asked.
#[derive(Default)]
struct Questions {
    list: Vec<Question>,
    unseen: Vec<String>,
}

/// What the backends of services with direct server return answer; those to
/// which there is no way are left out. Also what could not be asked.
pub(in super::super) async fn ask(
    config: &Config,
    links: &[Link],
    own: &[(IpAddr, u32)],
    found: &Found,
) -> io::Result<(BTreeMap<Place, VipAnswer>, Vec<String>)> {
    let Questions { list, unseen } = questions(config, links, own, found)?;
    let mut answers = BTreeMap::new();
    for family in [Wanted::V4, Wanted::V6] {
        let of_family = |it: &&Question| Wanted::answers_for(it.probe.destination) == family;
        let questions: Vec<&Question> = list.iter().filter(of_family).collect();
        if !questions.is_empty() {
            answers.extend(Round::new(family, &questions)?.run(&questions).await?);
        }
    }
    Ok((answers, unseen))
}

fn questions(
    config: &Config,
    links: &[Link],
    own: &[(IpAddr, u32)],
    found: &Found,
) -> io::Result<Questions> {
    let hops = hops::for_members(config, found);
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let random = u64::from_ne_bytes(random);
    let surroundings = Surroundings { links, own };
    let mut questions = Questions::default();
    for (index, service) in config.services.iter().enumerate() {
        if service.forward.is_translation() {
            continue;
        }
        for (place, backend) in service.backends.iter().enumerate() {
            let number = random.wrapping_add(questions.list.len() as u64);
            match question(config, service, backend, &hops, surroundings, number) {
                Ok(Some(question)) => questions.list.push(Question {
                    place: (index, place),
                    ..question
                }),
                Ok(None) => {}
                Err(why) => questions.unseen.push(format!(
                    "service {}: whether backend {} takes {}: {why}",
                    service.name, backend.name, service.address
                )),
            }
        }
    }
    Ok(questions)
}

/// What to ask a backend; nothing where there is no way to it, and why not
/// where it cannot be asked.
fn question(
    config: &Config,
    service: &Service,
    backend: &Backend,
    hops: &BTreeMap<IpAddr, Hop>,
    surroundings: Surroundings<'_>,
    number: u64,
) -> Result<Option<Question>, String> {
    let road = road(&config.node, service, backend, hops, surroundings);
    let road = road.map_err(|(NoRoad::Ours(why) | NoRoad::Theirs(why))| why)?;
    let Some(road) = road else {
        return Ok(None);
    };
    let probe = Probe {
        source: road.source,
        destination: service.address,
        mark: mark(service, number),
    };
    Ok(Some(Question {
        place: (0, 0),
        probe,
        interface: road.interface,
        member: road.member,
        hash: number,
    }))
}

fn mark(service: &Service, number: u64) -> Mark {
    match service.protocol {
        Protocol::Tcp => {
            let probed = service.health.as_ref().and_then(|health| health.port);
            Mark::Tcp {
                source_port: FIRST_PORT + (number as usize % PORTS) as u16,
                destination_port: service.ports.first().or(probed).unwrap_or(SOME_PORT),
                sequence: (number >> 14) as u32 ^ number as u32,
            }
        }
        Protocol::Udp => Mark::Echo {
            identifier: (number >> 16) as u16,
            sequence: number as u16,
        },
    }
}

/// The questions of one family under way.
struct Round {
    listener: Listener,
    senders: HashMap<String, Sender>,
    answers: HashMap<(IpAddr, Mark), VipAnswer>,
}

impl Round {
    fn new(family: Wanted, questions: &[&Question]) -> io::Result<Self> {
        let mut senders = HashMap::new();
        for question in questions {
            if !senders.contains_key(&question.interface) {
                let sender = Sender::open(&question.interface)?;
                senders.insert(question.interface.clone(), sender);
            }
        }
        Ok(Self {
            listener: Listener::open(family, None)?,
            senders,
            answers: HashMap::new(),
        })
    }

    async fn run(mut self, questions: &[&Question]) -> io::Result<BTreeMap<Place, VipAnswer>> {
        for round in 1..=TRIES {
            let silent: Vec<&Question> = questions
                .iter()
                .filter(|it| !self.answers.contains_key(&key(it)))
                .copied()
                .collect();
            if silent.is_empty() {
                break;
            }
            let mut time = PAUSE + BURST_PAUSE * (silent.len() / BURST) as u32;
            if round == TRIES {
                time += PATIENCE - PAUSE;
            }
            self.ask(&silent, Instant::now() + time).await?;
        }
        self.hang_up(questions)?;
        let answer = |question: &&Question| {
            let answer = self.answers.get(&key(question)).copied();
            (question.place, answer.unwrap_or(VipAnswer::Silent))
        };
        Ok(questions.iter().map(answer).collect())
    }

    /// Asks once, and hears until all have answered or the time is over.
    async fn ask(&mut self, silent: &[&Question], deadline: Instant) -> io::Result<()> {
        let mut missing: HashMap<(IpAddr, Mark), ()> =
            silent.iter().map(|it| (key(it), ())).collect();
        let (senders, answers) = (&self.senders, &mut self.answers);
        let send = async {
            for (index, question) in silent.iter().enumerate() {
                let Some(sender) = senders.get(&question.interface) else {
                    continue;
                };
                let request = question.probe.request();
                sender.send(&frames::to_member(
                    &question.member,
                    &request,
                    question.hash,
                ))?;
                if index % BURST == BURST - 1 {
                    pause(BURST_PAUSE).await;
                }
            }
            io::Result::Ok(())
        };
        let hear = self.listener.hear_until(deadline, |packet| {
            if let Some(answer) = frames::answer(packet)
                && missing.remove(&(answer.source, answer.mark)).is_some()
            {
                let kind = match answer.kind {
                    AnswerKind::Taken { mss } => VipAnswer::Taken { mss },
                    AnswerKind::Refused => VipAnswer::Refused,
                };
                answers.insert((answer.source, answer.mark), kind);
            }
            missing.is_empty()
        });
        let (sent, heard) = tokio::join!(send, hear);
        sent.and(heard)
    }

    /// Ends the connections that were taken.
    fn hang_up(&self, questions: &[&Question]) -> io::Result<()> {
        for question in questions {
            let answer = self.answers.get(&key(question));
            let (Some(VipAnswer::Taken { .. }), Some(reset), Some(sender)) = (
                answer,
                question.probe.reset(),
                self.senders.get(&question.interface),
            ) else {
                continue;
            };
            sender.send(&frames::to_member(&question.member, &reset, question.hash))?;
        }
        Ok(())
    }
}

fn key(question: &Question) -> (IpAddr, Mark) {
    (question.probe.destination, question.probe.mark)
}
