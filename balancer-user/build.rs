//! Embeds the kernel objects that `cargo xtask build` made.
//!
//! Without them the crate still builds, so that `cargo check` and `clippy`
//! need no BPF tool; the binary then says what is missing when it is asked
//! to load.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// What `dataplane::embedded` includes.
const OBJECTS: [&str; 3] = ["balancer.o", "decap.o", "bench.o"];

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    // Not `env!`: the script may have been compiled in another checkout.
    let here = env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?;
    let built = Path::new(&here).join("../target/bpf");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    for object in OBJECTS {
        let path = built.join(object);
        println!("cargo:rerun-if-changed={}", path.display());
        fs::write(out.join(object), fs::read(&path).unwrap_or_default())?;
    }
    Ok(())
}
