//! What drivers say of themselves, over generic netlink: offloads by the
//! `ethtool` family, XDP by the `netdev` family (Linux 6.3 and later).

use std::time::Duration;

use ethtool::{EthtoolAttr, EthtoolFeatureAttr, EthtoolFeatureBit, EthtoolHandle};
use futures_util::{StreamExt, TryStreamExt};
use genetlink::GenetlinkHandle;
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized,
};
use tokio::time::timeout;

/// The kernel answers at once, or not at all where it does not know the family.
const PATIENCE: Duration = Duration::from_secs(5);

/// `NETDEV_CMD_DEV_GET` of linux/netdev.h.
const DEV_GET: u8 = 1;
/// `NETDEV_A_DEV_IFINDEX`.
const IFINDEX: u16 = 1;
/// `NETDEV_A_DEV_XDP_FEATURES`.
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`: the verdicts that every program of ours gives.
const XDP_BASIC: u64 = 1;
/// `NETDEV_XDP_ACT_NDO_XMIT`: it sends frames that programs elsewhere made.
const XDP_NDO_XMIT: u64 = 4;

/// Offloads that matter to an XDP program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Offloads {
    pub(super) lro: bool,
    pub(super) gro: bool,
    pub(super) vlan_stripping: bool,
}

/// Connections to the two families; they end with their handles.
pub(crate) struct Drivers {
    ethtool: EthtoolHandle,
    netdev: GenetlinkHandle,
}

impl Drivers {
    /// Connects in the network namespace of the calling thread.
    pub(crate) fn connect() -> std::io::Result<Self> {
        let (connection, ethtool, _) = ethtool::new_connection()?;
        tokio::spawn(connection);
        let (connection, netdev, _) = genetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { ethtool, netdev })
    }

    /// The offloads of an interface that are on.
    pub(super) async fn offloads(&mut self, name: &str) -> Result<Offloads, String> {
        let ask = async {
            let request = self.ethtool.feature().get(Some(name));
            let answers = request.execute().await?;
            answers.try_collect::<Vec<_>>().await
        };
        let answers = match timeout(PATIENCE, ask).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("the kernel does not answer".to_owned()),
        };
        let active = answers
            .iter()
            .flat_map(|answer| &answer.payload.nlas)
            .find_map(|attribute| match attribute {
                EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => Some(bits),
                _ => None,
            });
        let active = active.ok_or("the answer has no list of active features")?;
        Ok(offloads(active))
    }

    /// Whether the driver runs XDP programs itself; `None` where the kernel
    /// is too old to tell.
    pub(super) async fn has_native_xdp(&mut self, index: u32) -> Option<bool> {
        Some(self.xdp_features(index).await? & XDP_BASIC != 0)
    }

    /// Whether the driver now sends frames of XDP programs, which most do only
    /// while the interface has one; `None` where the kernel is too old to tell.
    pub(crate) async fn sends_xdp_frames(&mut self, index: u32) -> Option<bool> {
        Some(self.xdp_features(index).await? & XDP_NDO_XMIT != 0)
    }

    async fn xdp_features(&mut self, index: u32) -> Option<u64> {
        let mut message = NetlinkMessage::from(GenlMessage::from_payload(Device::of(index)));
        message.header.flags = NLM_F_REQUEST;
        let ask = async {
            let answers = self.netdev.request(message).await.ok()?;
            let mut answers = std::pin::pin!(answers);
            while let Some(Ok(answer)) = answers.next().await {
                if let NetlinkPayload::InnerMessage(answer) = answer.payload {
                    return answer.payload.xdp_features;
                }
            }
            None
        };
        timeout(PATIENCE, ask).await.ok()?
    }
}

fn offloads(active: &[EthtoolFeatureBit]) -> Offloads {
    let is_on = |name| active.iter().any(|bit| bit.name == name && bit.value);
    Offloads {
        lro: is_on("rx-lro"),
        gro: is_on("rx-gro"),
        vlan_stripping: is_on("rx-vlan-hw-parse"),
    }
}

/// A message of the `netdev` family, as far as it is needed here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    index: u32,
    xdp_features: Option<u64>,
}

impl Device {
    fn of(index: u32) -> Self {
        Self {
            index,
            xdp_features: None,
        }
    }

    fn attribute(&self) -> DefaultNla {
        DefaultNla::new(IFINDEX, self.index.to_ne_bytes().to_vec())
    }
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        [self.attribute()].as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        [self.attribute()].as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self::of(0);
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute?;
            let value = attribute.value();
            match attribute.kind() {
                IFINDEX => device.index = value.try_into().map_or(0, u32::from_ne_bytes),
                XDP_FEATURES => {
                    device.xdp_features = value.try_into().ok().map(u64::from_ne_bytes);
                }
                _ => {}
            }
        }
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> GenlHeader {
        GenlHeader { cmd: 1, version: 1 }
    }

    #[test]
    fn a_device_is_asked_for_by_index_and_tells_its_features() {
        let request = Device::of(7);
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut bytes);
        assert_eq!(bytes, [8, 0, 1, 0, 7, 0, 0, 0]);
        let answer = Device::parse_with_param(&bytes, header()).unwrap();
        assert_eq!(answer, request);

        let features = DefaultNla::new(XDP_FEATURES, 0x23_u64.to_ne_bytes().to_vec());
        let mut bytes = vec![0; features.buffer_len()];
        features.emit(&mut bytes);
        let answer = Device::parse_with_param(&bytes, header()).unwrap();
        assert_eq!(answer.xdp_features, Some(0x23));
        // Cut short: nothing is made up.
        let short = DefaultNla::new(XDP_FEATURES, vec![1; 4]);
        let mut bytes = vec![0; short.buffer_len()];
        short.emit(&mut bytes);
        let answer = Device::parse_with_param(&bytes, header()).unwrap();
        assert_eq!(answer.xdp_features, None);
    }

    #[test]
    fn offloads_are_known_by_the_kernels_names() {
        let bit = |name: &str, value| EthtoolFeatureBit {
            index: 0,
            name: name.to_owned(),
            value,
        };
        let bits = [
            bit("rx-gro", true),
            bit("rx-lro", false),
            bit("rx-vlan-hw-parse", true),
            bit("rx-vlan-stag-hw-parse", true),
        ];
        let expected = Offloads {
            lro: false,
            gro: true,
            vlan_stripping: true,
        };
        assert_eq!(offloads(&bits), expected);
        assert!(offloads(&[bit("rx-lro", true)]).lro);
    }
}
