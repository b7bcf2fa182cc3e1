//! What the kernel says of the daemon's process.

use std::fs;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

/// The daemon's process; zeros where the kernel says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    /// Time on a CPU, in seconds.
    pub cpu_seconds: f64,
    /// Memory it has in RAM.
    pub resident_bytes: u64,
    /// Memory it has asked for.
    pub virtual_bytes: u64,
    /// Files it has open.
    pub open_files: u64,
    /// Files it may have open.
    pub max_files: u64,
}

impl Process {
    /// As it is now.
    pub fn look() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let seconds = |time: nix::sys::time::TimeVal| {
            time.tv_sec() as f64 + f64::from(u32::try_from(time.tv_usec()).unwrap_or(0)) / 1e6
        };
        let usage = getrusage(UsageWho::RUSAGE_SELF);
        let files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
        Self {
            cpu_seconds: usage.map_or(0.0, |it| {
                seconds(it.user_time()) + seconds(it.system_time())
            }),
            resident_bytes: kilobytes(&status, "VmRSS:"),
            virtual_bytes: kilobytes(&status, "VmSize:"),
            // The one that is read with is none of the daemon's.
            open_files: files.saturating_sub(1),
            max_files: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        }
    }
}

fn kilobytes(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_files() {
        let process = Process::look();
        assert!(process.resident_bytes > 100_000 && process.virtual_bytes > process.resident_bytes);
        assert!(process.open_files > 2 && process.max_files >= process.open_files);
    }
}
