//! Settings of the node.

use crate::config::model::Node;

/// The keys that differ and that only a start reads.
pub fn needs_restart(before: &Node, after: &Node) -> Vec<&'static str> {
    let fixed = [
        ("interfaces", before.interfaces == after.interfaces),
        ("xdp_mode", before.xdp_mode == after.xdp_mode),
        ("seed", before.seed == after.seed),
        (
            "flow_table_size",
            before.flow_table_size == after.flow_table_size,
        ),
        ("listen", before.listen == after.listen),
        ("socket", before.socket == after.socket),
        ("read_group", before.read_group == after.read_group),
        ("change_group", before.change_group == after.change_group),
        ("state_dir", before.state_dir == after.state_dir),
        ("pin_dir", before.pin_dir == after.pin_dir),
        (
            "resync_interval",
            before.resync_interval == after.resync_interval,
        ),
    ];
    let differing = fixed.into_iter().filter(|(_, is_same)| !is_same);
    differing.map(|(key, _)| key).collect()
}
