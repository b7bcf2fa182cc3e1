//! What holds for all services of a generation.

use balancer_common::layout::GenerationHead;
use balancer_common::parse::{PROTOCOL_TCP, PROTOCOL_UDP};

use super::super::State;
use super::{Layout, Memory, Tables};

impl<M: Memory> Tables<M> {
    pub(super) fn write_head(&mut self, next: &State, layout: &Layout, generation: u32) {
        let any_port = layout
            .keys
            .iter()
            .any(|(key, _)| key.port == 0 && matches!(key.protocol, PROTOCOL_TCP | PROTOCOL_UDP));
        let mask_v4 = (self.memory.services_v4().len() / 2 - 1) as u32;
        let mask_v6 = (self.memory.services_v6().len() / 2 - 1) as u32;
        self.memory.nat_settings()[generation as usize] = next.settings.nat;
        self.memory.node().generations[generation as usize] = GenerationHead {
            lookup_seed: layout.seed,
            flow_keys: next.flow_keys,
            mask_v4,
            mask_v6,
            flags: u32::from(any_port) * GenerationHead::ANY_PORT
                + u32::from(next.settings.answer_echo) * GenerationHead::ANSWER_ECHO,
            handshake_sample: next.settings.handshake_sample,
        };
    }
}
