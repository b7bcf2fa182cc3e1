//! Any text through the reader and the checks of the configuration file.
//!
//! What must hold: nothing panics; a text without a configuration has an
//! error; findings stand inside the text; a configuration that came out is
//! written as a text that reads back as the same and has the same findings;
//! of what is accepted, tables can be built, and no two services share a key.
#![cfg_attr(fuzzing, no_main)]

use std::collections::HashSet;
use std::time::Instant;

use balancer_fuzz::findings;
use balancer_user::config::model::{Config, Seed, Service};
use balancer_user::config::render::render;
use balancer_user::config::{Examined, examine};
use balancer_user::desired::{self, Builder, World};

/// Larger tables take so long to build that little else would be tried.
const MAX_TABLE_SIZE: u32 = 1_009;
const MAX_SERVICES: usize = 4;

fn check(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let examined = examine("fuzz.toml", text, None);
    findings::check(&examined.report);
    let Some(config) = &examined.config else {
        assert!(
            examined.report.has_errors(),
            "no configuration and no error"
        );
        return;
    };
    reads_back(config, &examined);
    let is_small =
        config.node.table_size <= MAX_TABLE_SIZE && config.services.len() <= MAX_SERVICES;
    if is_small {
        tables_hold(text, config);
    }
}

fn reads_back(config: &Config, examined: &Examined) {
    let text = render(config);
    let again = examine("fuzz.toml", text.as_str(), None);
    assert_eq!(again.config.as_ref(), Some(config), "{text}");
    assert_eq!(
        findings::summary(&again.report),
        findings::summary(&examined.report),
        "{text}"
    );
    assert_eq!(render(config), text);
}

fn tables_hold(text: &str, config: &Config) {
    let counts = |service: &Service, size: u32| {
        let counts = desired::slot_counts(service, size);
        assert_eq!(counts.len(), service.backends.len());
        let sum: u32 = counts.iter().sum();
        assert!(
            sum == size || sum == 0,
            "{sum} slots of {size} have an owner"
        );
        counts
    };
    let examined = examine("fuzz.toml", text, Some(&counts));
    findings::check(&examined.report);
    if !examined.report.has_errors() {
        let world = World::default();
        let built = Builder::default().build(config, &Seed([7; 16]), &world, Instant::now());
        let mut keys = HashSet::new();
        for key in built.state.services.values().flat_map(|it| &it.keys) {
            assert!(keys.insert(key), "{key:?} twice");
        }
    }
}

balancer_fuzz::target!("config", check);
