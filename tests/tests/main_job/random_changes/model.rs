//! Configurations that are drawn, and changes of them.

use super::*;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Member {
    pub(super) node: usize,
    pub(super) weight: u16,
    pub(super) drain: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) ports: Vec<u16>,
    pub(super) protocol: &'static str,
    pub(super) forward: &'static str,
    pub(super) members: Vec<Member>,
}

/// A configuration that is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model(pub(super) Vec<Service>);

impl Service {
    pub(super) fn draw(rng: &mut Rng, lab: &Lab, number: usize) -> Self {
        let is_v6 = rng.chance(25);
        let vips = lab.vips();
        let mut vips = vips.iter().filter(|vip| vip.is_ipv6() == is_v6);
        let first = rng.below(lab.backends().len());
        let members = (0..2 + rng.below(4)).map(|at| Member {
            node: (first + at) % lab.backends().len(),
            weight: rng.pick(&[1, 10, 50, 100, 100, 100, 250]),
            drain: at > 1 && rng.chance(20),
        });
        Self {
            name: format!("s{number}"),
            members: members.collect(),
            address: *vips.nth(rng.below(2)).unwrap_or(&lab.vips()[0]),
            ports: (0..1 + rng.below(3))
                .map(|at| 1000 * number as u16 + 1000 + at as u16)
                .collect(),
            protocol: rng.pick(&["tcp", "tcp", "udp"]),
            forward: if is_v6 {
                "l2"
            } else {
                rng.pick(&["l2", "ipip", "gue", "nat"])
            },
        }
    }

    pub(super) fn toml(&self, lab: &Lab) -> String {
        let Self {
            name,
            address,
            ports,
            protocol,
            forward,
            members,
        } = self;
        let mut text = format!(
            "[[service]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {ports:?}\n\
             protocol = \"{protocol}\"\nforward = \"{forward}\"\nfail_open_below = 0.0\n"
        );
        for Member {
            node,
            weight,
            drain,
        } in members
        {
            let node = lab.backend(*node);
            let server: IpAddr = match address {
                IpAddr::V4(_) => node.v4().into(),
                IpAddr::V6(_) => node.v6().into(),
            };
            let _ = write!(
                text,
                "\n[[service.backend]]\nname = \"{}\"\naddress = \"{server}\"\nweight = {weight}\n\
                 drain = {drain}\n",
                node.name()
            );
        }
        text
    }

    pub(super) fn takes_traffic(&self) -> usize {
        let takes = |member: &&Member| !member.drain && member.weight > 0;
        self.members.iter().filter(takes).count()
    }

    /// Changes something of it; says what.
    pub(super) fn change(&mut self, rng: &mut Rng, nodes: usize) -> String {
        let at = rng.below(self.members.len());
        let last = self.takes_traffic() <= 1;
        let name = &self.name;
        match rng.below(8) {
            0 | 1 => {
                let used: BTreeSet<usize> = self.members.iter().map(|it| it.node).collect();
                let Some(node) = (0..nodes).find(|node| !used.contains(node)) else {
                    return format!("{name} has all");
                };
                let weight = rng.pick(&[1, 50, 100, 250]);
                self.members.insert(
                    at,
                    Member {
                        node,
                        weight,
                        drain: false,
                    },
                );
                format!("{name}: backend{node} is added with {weight}")
            }
            2 if !last => {
                let gone = self.members.remove(at);
                format!("{name}: backend{} is removed", gone.node)
            }
            3 | 4 => {
                let member = &mut self.members[at];
                member.weight = rng.pick(&[1, 10, 50, 100, 250, 1000]);
                format!("{name}: backend{} weighs {}", member.node, member.weight)
            }
            5 if !last || self.members[at].drain => {
                let member = &mut self.members[at];
                member.drain = !member.drain;
                format!("{name}: backend{} drains: {}", member.node, member.drain)
            }
            6 if self.ports.len() > 1 => {
                let gone = self.ports.pop();
                format!("{name}: port {gone:?} goes")
            }
            6 => {
                let port = self.ports[0] + 10 + rng.below(5) as u16;
                self.ports.push(port);
                format!("{name}: port {port} comes")
            }
            _ if self.address.is_ipv4() => {
                self.forward = rng.pick(&["l2", "ipip", "gue", "nat"]);
                format!("{name} is forwarded by {}", self.forward)
            }
            _ => {
                self.members.rotate_left(1);
                format!("{name}: another order")
            }
        }
    }
}

impl Model {
    pub(super) fn draw(rng: &mut Rng, lab: &Lab) -> Self {
        let members = (0..4).map(|node| Member {
            node,
            weight: 100,
            drain: false,
        });
        let steady = Service {
            name: STEADY.to_owned(),
            address: lab.vip_v4().into(),
            ports: vec![9000],
            protocol: "tcp",
            forward: rng.pick(&["l2", "ipip", "gue", "nat"]),
            members: members.collect(),
        };
        let drawn = (0..3).map(|at| Service::draw(rng, lab, at));
        Self(std::iter::once(steady).chain(drawn).collect())
    }

    /// Another one, some changes away; what they are.
    pub(super) fn next(&self, rng: &mut Rng, lab: &Lab) -> (Self, Vec<String>) {
        let mut next = self.clone();
        let mut said = Vec::new();
        for _ in 0..1 + rng.below(3) {
            let at = 1 + rng.below(next.0.len() - 1);
            match rng.below(10) {
                0 if next.0.len() < 7 => {
                    let free = |it: &usize| next.0.iter().all(|s| s.name != format!("s{it}"));
                    let number = (0..7).find(free).unwrap_or(7);
                    next.0.push(Service::draw(rng, lab, number));
                    said.push(format!("s{number} comes"));
                }
                1 if next.0.len() > 3 => {
                    let gone = next.0.remove(at);
                    said.push(format!("{} goes", gone.name));
                }
                _ => said.push(next.0[at].change(rng, lab.backends().len())),
            }
        }
        (next, said)
    }

    pub(super) fn service(&self, name: &str) -> Option<&Service> {
        self.0.iter().find(|it| it.name == name)
    }
}
