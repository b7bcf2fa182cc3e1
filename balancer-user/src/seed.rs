//! The secret seed: drawing the flow hash's keys from it, and keeping one
//! that was made by ourselves.

use std::fs;
use std::hash::Hasher;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use balancer_common::layout::FLOW_KEYS;
use siphasher::sip::SipHasher24;

use crate::config::model::Seed;

/// The keys of the flow hash: SipHash-2-4 of their index under the seed
/// (Aumasson and Bernstein, 2012). Part of the contract between balancers of
/// a group.
pub fn flow_keys(seed: &Seed) -> [u64; FLOW_KEYS] {
    std::array::from_fn(|index| {
        let mut hasher = SipHasher24::new_with_key(&seed.0);
        hasher.write_u64(index as u64);
        hasher.finish()
    })
}

/// The seed kept in `state_dir`, made at random if there is none yet.
pub fn load_or_make(state_dir: &Path) -> io::Result<Seed> {
    let path = state_dir.join("seed");
    match fs::read(&path) {
        Ok(bytes) => {
            let seed = <[u8; 16]>::try_from(bytes.as_slice()).map_err(|_| {
                let text = format!(
                    "{} holds {} bytes instead of 16; remove it to have a new seed made, \
                     which gives most flows another backend",
                    path.display(),
                    bytes.len()
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
            Ok(Seed(seed))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path),
        Err(error) => Err(error),
    }
}

fn make(path: &Path) -> io::Result<Seed> {
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&seed)?;
    file.sync_all()?;
    Ok(Seed(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_make(dir.path()).unwrap();
        assert_eq!(load_or_make(dir.path()).unwrap(), first);
    }

    #[test]
    fn damaged_seed_is_refused_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("seed"), b"short").unwrap();
        let error = load_or_make(dir.path()).unwrap_err();
        assert!(error.to_string().contains("5 bytes"), "{error}");
    }

    #[test]
    fn keys_differ_from_each_other_and_by_seed() {
        let keys = flow_keys(&Seed([1; 16]));
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), FLOW_KEYS);
        assert_ne!(keys, flow_keys(&Seed([2; 16])));
    }
}
