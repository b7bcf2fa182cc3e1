//! The kernel objects in this binary, one for each program.

use super::Error;

/// A kernel object; empty in a build without one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Embedded(&'static [u8]);

/// The object of a name, aligned as ELF wants it.
macro_rules! embed {
    ($name:literal) => {
        Embedded(aya::include_bytes_aligned!(concat!(
            env!("OUT_DIR"),
            "/",
            $name,
            ".o"
        )))
    };
}

/// The load balancer.
pub(super) static BALANCER: Embedded = embed!("balancer");
/// The backend's side.
pub(super) static DECAP: Embedded = embed!("decap");
/// The benchmark's hot loop.
pub(super) static BENCH: Embedded = embed!("bench");

impl Embedded {
    /// Its ELF file.
    pub(super) fn bytes(self) -> Result<&'static [u8], Error> {
        if self.0.is_empty() {
            return Err(Error::Foreign(
                "this build has no kernel program in it; build with `cargo xtask build`".to_owned(),
            ));
        }
        Ok(self.0)
    }
}
