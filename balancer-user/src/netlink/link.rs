//! Interfaces, as the kernel reports them. Pure: messages in, types out.

use rtnetlink::packet_route::link::{
    InfoKind, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    LinkXdp, XdpAttached,
};

use crate::config::model::Mac;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The number the kernel knows it by.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Bytes of the longest network packet it sends.
    pub mtu: u32,
    /// Its address; `None` on interfaces that are not Ethernet.
    pub mac: Option<Mac>,
    /// An operator has brought it up.
    pub up: bool,
    /// It has a carrier: a cable, or a peer that is up.
    pub carrier: bool,
    /// It is the loopback, which leads nowhere else.
    pub loopback: bool,
    /// The XDP program on it.
    pub xdp: Option<AttachedXdp>,
    /// It is a VLAN's: the index of the interface whose frames carry the tag.
    pub vlan_of: Option<u32>,
    /// It is a port of a bond, or of a team: that one's index.
    pub bond: Option<u32>,
}

/// An XDP program that an interface runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachedXdp {
    /// The program's number, as `bpftool prog` shows it.
    pub program_id: u32,
    /// Where it runs.
    pub mode: AttachedMode,
}

/// Where an attached XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the kernel's generic hook.
    Generic,
    /// In the network card.
    Offloaded,
}

/// The interface a message tells of; `None` if it has no name.
pub(super) fn decode(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    let is_ethernet = header.link_layer_type == LinkLayerType::Ether;
    let (mut name, mut mtu, mut mac, mut xdp) = (None, 0, None, None);
    let (mut below, mut is_vlan) = (None, false);
    let (mut above, mut is_bonded) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Mtu(value) => mtu = *value,
            LinkAttribute::Address(bytes) if is_ethernet => mac = decode_mac(bytes),
            LinkAttribute::Xdp(values) => xdp = decode_xdp(values),
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::Controller(index) => above = Some(*index),
            LinkAttribute::LinkInfo(values) => {
                is_vlan = values.contains(&LinkInfo::Kind(InfoKind::Vlan));
                is_bonded = [InfoPortKind::Bond, InfoPortKind::Team]
                    .into_iter()
                    .any(|kind| values.contains(&LinkInfo::PortKind(kind)));
            }
            _ => {}
        }
    }
    Some(Link {
        index: header.index,
        name: name?,
        mtu,
        mac,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        loopback: header.flags.contains(LinkFlags::Loopback),
        xdp,
        vlan_of: below.filter(|_| is_vlan),
        bond: above.filter(|_| is_bonded),
    })
}

/// An Ethernet address; `None` if it has another length.
pub(super) fn decode_mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

fn decode_xdp(attributes: &[LinkXdp]) -> Option<AttachedXdp> {
    let (mut attached, mut any, mut native, mut generic, mut offloaded) =
        (XdpAttached::None, None, None, None, None);
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(value) => attached = *value,
            LinkXdp::ProgId(id) => any = Some(*id),
            LinkXdp::DrvProgId(id) => native = Some(*id),
            LinkXdp::SkbProgId(id) => generic = Some(*id),
            LinkXdp::HwProgId(id) => offloaded = Some(*id),
            _ => {}
        }
    }
    let in_mode = |id: Option<u32>, mode| id.map(|program_id| AttachedXdp { program_id, mode });
    match attached {
        XdpAttached::Driver => in_mode(any.or(native), AttachedMode::Native),
        XdpAttached::SocketBuffer => in_mode(any.or(generic), AttachedMode::Generic),
        XdpAttached::Hardware => in_mode(any.or(offloaded), AttachedMode::Offloaded),
        // A card's program beside one of the host's: the latter is in the way
        // of ours.
        XdpAttached::Multiple => in_mode(native, AttachedMode::Native)
            .or(in_mode(generic, AttachedMode::Generic))
            .or(in_mode(offloaded, AttachedMode::Offloaded)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(layer: LinkLayerType, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = layer;
        message.header.flags = LinkFlags::Up;
        message.attributes = attributes;
        message
    }

    #[test]
    fn an_ethernet_interface_is_read() {
        let message = message(
            LinkLayerType::Ether,
            vec![
                LinkAttribute::IfName("eth0".to_owned()),
                LinkAttribute::Mtu(1500),
                LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
                LinkAttribute::Xdp(vec![LinkXdp::Attached(XdpAttached::None)]),
            ],
        );
        let expected = Link {
            index: 7,
            name: "eth0".to_owned(),
            mtu: 1500,
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            up: true,
            carrier: false,
            loopback: false,
            xdp: None,
            vlan_of: None,
            bond: None,
        };
        assert_eq!(decode(&message), Some(expected));
    }

    #[test]
    fn vlan_is_told_from_other_interfaces_above_one() {
        let above = |kind| {
            let name = LinkAttribute::IfName("eth0.5".to_owned());
            let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
            let attributes = vec![name, LinkAttribute::Link(3), info];
            decode(&message(LinkLayerType::Ether, attributes)).unwrap()
        };
        assert_eq!(above(InfoKind::Vlan).vlan_of, Some(3));
        // The other end of a veth, and what a macvlan stands on.
        assert_eq!(above(InfoKind::Veth).vlan_of, None);
        assert_eq!(above(InfoKind::MacVlan).vlan_of, None);
    }

    #[test]
    fn port_of_a_bond_is_told_from_one_of_a_bridge() {
        let port = |kind| {
            let name = LinkAttribute::IfName("eth0".to_owned());
            let info = LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::PortKind(kind),
            ]);
            let attributes = vec![name, LinkAttribute::Controller(9), info];
            decode(&message(LinkLayerType::Ether, attributes)).unwrap()
        };
        assert_eq!(port(InfoPortKind::Bond).bond, Some(9));
        assert_eq!(port(InfoPortKind::Team).bond, Some(9));
        assert_eq!(port(InfoPortKind::Bridge).bond, None);
        assert_eq!(port(InfoPortKind::Vrf).bond, None);
    }

    #[test]
    fn only_ethernet_addresses_are_macs() {
        let tunnel = |layer, address: &[u8]| {
            let name = LinkAttribute::IfName("tun0".to_owned());
            let address = LinkAttribute::Address(address.to_vec());
            decode(&message(layer, vec![name, address])).unwrap().mac
        };
        // An IPv4 tunnel's own address takes this attribute, too.
        assert_eq!(tunnel(LinkLayerType::Tunnel, &[192, 0, 2, 1]), None);
        assert_eq!(tunnel(LinkLayerType::Loopback, &[0; 6]), None);
        assert_eq!(tunnel(LinkLayerType::Ether, &[2; 8]), None);
    }

    #[test]
    fn an_interface_without_a_name_is_none() {
        assert_eq!(decode(&message(LinkLayerType::Ether, vec![])), None);
    }

    #[test]
    fn each_place_of_an_xdp_program_is_told_apart() {
        use AttachedMode::{Generic, Native, Offloaded};
        let id = LinkXdp::ProgId(9);
        let cases = [
            (
                vec![LinkXdp::Attached(XdpAttached::Driver), id.clone()],
                Some((9, Native)),
            ),
            (
                vec![LinkXdp::Attached(XdpAttached::SocketBuffer), id.clone()],
                Some((9, Generic)),
            ),
            (
                vec![LinkXdp::Attached(XdpAttached::Hardware), id.clone()],
                Some((9, Offloaded)),
            ),
            (
                vec![
                    LinkXdp::Attached(XdpAttached::Multiple),
                    LinkXdp::SkbProgId(4),
                    LinkXdp::HwProgId(5),
                ],
                Some((4, Generic)),
            ),
            (vec![LinkXdp::Attached(XdpAttached::None)], None),
            (vec![id], None),
            (vec![], None),
        ];
        for (attributes, expected) in cases {
            let expected = expected.map(|(program_id, mode)| AttachedXdp { program_id, mode });
            assert_eq!(decode_xdp(&attributes), expected, "{attributes:?}");
        }
    }
}
