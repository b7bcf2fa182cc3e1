//! A service as the daemon runs it, from its file to the kernel program, with
//! hand-made health, next hops and time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use balancer_tests::lab::cleanup::Scratch;
use balancer_user::config::examine;
use balancer_user::config::model::{Backend, Config, Mac, Seed, Service};
use balancer_user::dataplane::capacity::Capacity;
use balancer_user::dataplane::trial::Trial;
use balancer_user::dataplane::{State, features};
use balancer_user::desired::{Builder, World};
use balancer_user::health;
use balancer_user::member::Hop;
use balancer_user::probe::scheduler::TargetId;

/// Until when old flows are kept.
pub(crate) const HORIZON: Duration = Duration::from_secs(300);
/// The service's only name.
const WEB: &str = "web";

/// One balancer of a group: all have the same file and the same seed.
pub(crate) struct Cluster {
    pub(crate) config: Config,
    pub(crate) now: Instant,
    pub(crate) trial: Trial,
    pub(crate) state: State,
    world: World,
    builder: Builder,
    /// Where the maps outlive a trial.
    pins: Scratch,
}

fn file(backends: usize) -> String {
    let mut file = format!(
        "[node]\ninterfaces = [\"eth0\"]\ntable_size = 8191\nflow_table_size = 524288\n\n\
         [[service]]\nname = \"{WEB}\"\naddress = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\n\
         forward = \"l2\"\ndrain_timeout = \"300s\"\nfail_open_below = 0\n\n\
         [service.health]\nkind = \"tcp\"\n"
    );
    for number in 0..backends {
        file += &format!(
            "\n[[service.backend]]\nname = \"web-{number}\"\naddress = \"10.0.0.{}\"\n",
            number + 1
        );
    }
    file
}

/// What leads to backend `number`: its Ethernet address ends in it.
fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0xbe, number])
}

impl Cluster {
    /// A balancer with `backends` in its file, all of them up.
    pub(crate) fn new(backends: usize) -> Self {
        let config = examine("test", file(backends), None).config.unwrap();
        let mut world = World::default();
        for number in 0..=u8::MAX {
            let hop = Hop {
                egress: 0,
                mtu: 1500,
                destination: Some(mac(number)),
                source: None,
                address: None,
                on_link: true,
            };
            let address = IpAddr::from([10, 0, 0, number.wrapping_add(1)]);
            world.hops.insert(address, hop);
        }
        let mut cluster = Self {
            trial: Trial::load(&State::empty()).unwrap(),
            state: State::empty(),
            config,
            now: Instant::now(),
            world,
            builder: Builder::default(),
            pins: Scratch::for_pins("cluster"),
        };
        for number in 0..backends {
            cluster.set_health(&format!("web-{number}"), health::State::Up);
        }
        cluster.state = cluster.build();
        let capacity = Capacity::for_state(&cluster.state);
        let features = features::needed(&cluster.state);
        let pins = cluster.pins.path();
        cluster.trial = Trial::pinned(pins, capacity, features, &cluster.state).unwrap();
        cluster
    }

    pub(crate) fn service(&mut self) -> &mut Service {
        self.config.service_mut(WEB).unwrap()
    }

    pub(crate) fn backend(&mut self, name: &str) -> &mut Backend {
        self.service().backend_mut(name).unwrap()
    }

    pub(crate) fn set_health(&mut self, backend: &str, state: health::State) {
        let id = TargetId {
            service: WEB.to_owned(),
            backend: backend.to_owned(),
        };
        self.world.health.insert(id, state);
    }

    /// What the daemon does after every event.
    pub(crate) fn reconcile(&mut self) {
        for service in self.builder.rounds_over(self.now) {
            let marks = self.trial.take_marks(service).unwrap();
            self.builder.end_round(service, &marks, self.now);
        }
        self.state = self.build();
        self.trial.change(&self.state).unwrap();
    }

    /// The daemon is killed while it carries out an event, after it has stored
    /// what the change may leave in force and before it has made it; the next
    /// one knows the file, what was stored and what is pinned.
    pub(crate) fn restart(&mut self) {
        let in_force = self.builder.seating();
        self.build();
        let stored = in_force.with(&self.builder.seating());
        let stored = serde_json::to_string(&stored).unwrap();
        self.trial = Trial::after_restart(self.pins.path()).unwrap();
        let seating = serde_json::from_str(&stored).unwrap();
        self.builder = Builder::adopt(&seating, self.trial.state()).unwrap();
        self.reconcile();
    }

    fn build(&mut self) -> State {
        let seed = Seed([7; 16]);
        let built = self
            .builder
            .build(&self.config, &seed, &self.world, self.now);
        built.state
    }

    /// Whether some slot is in change.
    pub(crate) fn is_settling(&self) -> bool {
        let tables = self.state.services.values().map(|service| &service.table);
        tables
            .flat_map(|table| table.slots().unwrap())
            .any(balancer_common::layout::Slot::is_unsettled)
    }

    /// Lets time pass until all slots are settled.
    pub(crate) fn settle(&mut self) {
        for _ in 0..3 {
            self.now += HORIZON;
            self.reconcile();
        }
        assert!(!self.is_settling());
    }
}

/// The backend a frame was sent to, by its number.
pub(crate) fn backend_of(frame: &[u8]) -> u8 {
    assert_eq!(frame[..5], mac(0).0[..5]);
    frame[5]
}
