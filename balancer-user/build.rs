//! Embeds the kernel object that `cargo xtask build` made.
//!
//! Without one the crate still builds, so that `cargo check` and `clippy`
//! need no BPF tool; the binary then says what is missing when it is asked
//! to load.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/balancer-ebpf.o");
    println!("cargo:rerun-if-changed={}", object.display());
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let bytes = fs::read(&object).unwrap_or_default();
    fs::write(out.join("balancer-ebpf.o"), bytes)
}
