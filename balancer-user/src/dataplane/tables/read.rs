//! Reading back what is in force, from where packets read it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use balancer_common::layout::{
    GenerationHead, Member, SLOTS_PER_BLOCK, ServiceOptions, Slot, Target,
};

use super::super::{ServiceId, ServiceKey, ServiceState, Settings, State, Table};
use super::{Memory, Tables};

impl<M: Memory> Tables<M> {
    /// What is in force, decoded from the memory.
    pub fn read(&mut self) -> State {
        let node = *self.memory.node();
        let generation = (node.active & 1) as usize;
        let mut services = BTreeMap::new();
        let mut server_ids = Vec::new();
        let half = self.memory.services_v4().len() / 2;
        let buckets = self.memory.services_v4()[generation * half..][..half].to_vec();
        for bucket in buckets {
            let address = IpAddr::from(bucket.address);
            self.read_bucket(
                &mut services,
                address,
                bucket.port,
                bucket.protocol,
                bucket.target,
            );
        }
        let half = self.memory.services_v6().len() / 2;
        let buckets = self.memory.services_v6()[generation * half..][..half].to_vec();
        for bucket in buckets {
            if bucket.protocol == Target::SERVER_ID_PROTOCOL {
                server_ids.push(bucket);
                continue;
            }
            let address = IpAddr::from(bucket.address);
            self.read_bucket(
                &mut services,
                address,
                bucket.port,
                bucket.protocol,
                bucket.target,
            );
        }
        for bucket in server_ids {
            if let Some(service) = services.get_mut(&bucket.target.service) {
                let mut id = [0; 8];
                id.copy_from_slice(&bucket.address[..8]);
                service.server_ids.insert(id, bucket.target.members as u16);
            }
        }
        for service in services.values_mut() {
            service.keys.sort_unstable();
        }
        let head = node.generations[generation];
        State {
            flow_keys: head.flow_keys,
            settings: Settings {
                answer_echo: head.flags & GenerationHead::ANSWER_ECHO != 0,
                handshake_sample: head.handshake_sample,
                // The size of a map is not in it: what was asked for.
                flow_records: self.state.settings.flow_records,
                nat: self.memory.nat_settings()[generation],
            },
            services,
        }
    }

    fn read_bucket(
        &mut self,
        services: &mut BTreeMap<ServiceId, ServiceState>,
        address: IpAddr,
        port: [u8; 2],
        protocol: u8,
        target: Target,
    ) {
        if target.service == 0 || target.service == Target::ADDRESS {
            return;
        }
        let key = ServiceKey {
            address,
            port: u16::from_be_bytes(port),
            protocol,
        };
        if let Some(service) = services.get_mut(&target.service) {
            service.keys.push(key);
            return;
        }
        let service = ServiceState {
            keys: vec![key],
            members: self.read_members(target),
            table: self.read_table(target),
            flags: target.flags,
            options: self.read_options(target),
            server_ids: BTreeMap::new(),
        };
        services.insert(target.service, service);
    }

    /// Whatever stands there; an index out of range reads as nothing, and so
    /// differs from every state that was ever written.
    fn read_members(&mut self, target: Target) -> Vec<Member> {
        let first = target.members as usize;
        let members = self.memory.members();
        members
            .get(first..first + target.member_count as usize)
            .unwrap_or_default()
            .iter()
            .map(|member| Member {
                egress_port: 0,
                ..*member
            })
            .collect()
    }

    fn read_options(&mut self, target: Target) -> ServiceOptions {
        let options = self.memory.options();
        ServiceOptions {
            sources: 0,
            ..options
                .get(target.options as usize)
                .copied()
                .unwrap_or_default()
        }
    }

    fn read_table(&mut self, target: Target) -> Table {
        let first = target.table as usize;
        let count = target.table_len.div_ceil(SLOTS_PER_BLOCK) as usize;
        let blocks = self.memory.slots().get(first..first + count);
        let slots: &[Slot] = bytemuck::cast_slice(blocks.unwrap_or_default());
        Table::read_back(slots.get(..target.table_len as usize).unwrap_or_default())
    }
}
