//! The daemon: from a file to a running balancer, and to its end.
//!
//! Start-up proves before it promises: the file is checked, the locks and
//! the socket are taken, interfaces are looked at, backends are probed, and
//! only then is the program attached with its first table in force. What an
//! earlier daemon left attached forwards until that moment.

mod capturing;
mod change;
mod clock;
mod controller;
mod crowds;
mod ends;
mod existing;
mod explain;
mod first_probes;
mod history;
pub mod hops;
mod host;
mod incidents;
mod interfaces;
mod judged;
mod looking;
mod lookup;
mod notifying;
mod origin;
mod peers;
mod pins;
mod planning;
mod preparing;
mod pressure;
mod probe_times;
mod probed;
mod protocol;
mod rates;
mod relieving;
mod report;
mod resume;
mod revisions;
mod sampling;
mod settling;
mod store;
mod supervisor;
mod telemetry;
mod verify;
mod watching;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use self::clock::Clock;
use self::controller::{Controller, Sources};
use self::ends::{End, Ends};
use self::first_probes::{open_lane, prove};
use self::incidents::Incidents;
use self::lookup::Lookup;
use self::peers::Group;
use self::pins::{PinDir, lock_pins};
use self::preparing::Done;
use self::revisions::Revisions;
use self::store::{Resumed, Store};
use self::supervisor::Supervisor;
use crate::api::access::Doors;
use crate::api::public::{self, Running};
use crate::api::server;
use crate::change::{TableMemo, examine};
use crate::config;
use crate::config::model::{Config, Node, Seed, Service};
use crate::dataplane::attach::{self, Attached};
use crate::dataplane::aya::Placement;
use crate::desired::World;
use crate::netlink::{Changes, Netlink};
use crate::probe::scheduler::{Events, Scheduler};
use crate::probe::vip;
use crate::revision::{self, Author};
use crate::seed;

/// Commands that wait for the controller.
const MAX_WAITING_COMMANDS: usize = 64;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start; nothing new is attached then.
pub async fn run(config_path: &Path, replace_tables: bool) -> anyhow::Result<()> {
    let mut ends = Ends::new()?;
    // From the start: the default of SIGHUP is to end the process.
    let hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    raise_file_limit();
    let tables = TableMemo::default();
    let (file, file_digest) = load(config_path, &tables)?;
    let (netlink, network) = Netlink::connect().context("connecting to the kernel's netlink")?;
    check_interfaces(&netlink, &file.node).await?;
    let store = Store::open(&file.node.state_dir)?;
    let revisions = Revisions::open(&file.node.state_dir, unix_now())?;
    let is_forwarding = !attach::pinned(&file.node.pin_dir)?.is_empty();
    let resumed = store::resume(&file, &file_digest, revisions.in_force(), is_forwarding);
    // It has been read; what runs is another copy.
    drop(file);
    let node = &resumed.config.node;
    let pins = lock_pins(node, replace_tables)?;
    let seed = match node.seed {
        Some(seed) => seed,
        None => seed::load_or_make(&node.state_dir).context("the seed of the flow hash")?,
    };
    let socket = node.socket.clone();
    let listener = server::bind(&socket)
        .await
        .with_context(|| format!("control socket {}", socket.display()))?;
    let (read, change) = (node.read_group.as_deref(), node.change_group.as_deref());
    let doors = Doors::new(read, change).map_err(anyhow::Error::msg)?;
    doors
        .open(&socket)
        .with_context(|| format!("control socket {}", socket.display()))?;
    let public = match node.listen {
        Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
            format!("node.listen {address}: cannot be served; take another address or leave it out")
        })?),
        None => None,
    };
    let start = Start {
        config_path,
        resumed,
        revisions,
        seed,
        tables,
        store,
        pins,
        netlink,
    };
    let listeners = (listener, doors, public);
    let result = serve(start, network, hangup, listeners, &mut ends).await;
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!(%error, "socket not removed");
    }
    result
}

/// What is known before the first probe.
struct Start<'a> {
    config_path: &'a Path,
    resumed: Resumed,
    revisions: Revisions,
    seed: Seed,
    tables: TableMemo,
    store: Store,
    pins: PinDir,
    netlink: Netlink,
}

async fn serve(
    start: Start<'_>,
    network: Changes,
    hangup: Signal,
    (listener, doors, public): (UnixListener, Doors, Option<TcpListener>),
    ends: &mut Ends,
) -> anyhow::Result<()> {
    let is_newer = start.resumed.is_newer;
    let (answers, found) = mpsc::channel(1);
    let (done, beside) = mpsc::channel(1);
    let netlink = start.netlink.clone();
    let names = vip::Names::of(&start.resumed.config.node.pin_dir);
    let began = tokio::select! {
        began = begin(start, answers, done) => began.map(Some),
        _ = ends.wait() => Ok(None),
    };
    let (mut controller, probes) = match began {
        Ok(Some(began)) => began,
        // First probes may have been made.
        ended => {
            if let Err(error) = vip::unlead(&netlink, &names).await {
                tracing::warn!(%error, "rules for probes may be left");
            }
            return ended.map(drop);
        }
    };
    if is_newer {
        tracing::info!("the file changed while no daemon ran; it is read now");
        controller.reload(Author::daemon(), oneshot::channel().0);
    }
    let (commands, receiver) = mpsc::channel(MAX_WAITING_COMMANDS);
    let mut sources = Sources {
        probes,
        network,
        found,
        beside,
        commands: receiver,
        hangup,
    };
    let watching = controller.group.watch();
    let told = public::Sources {
        runs: controller.group.runs(),
        scraper: controller.scraper(),
        published: controller.published(),
    };
    let entrances = controller.crowds.entrances.clone();
    // A fault is mended by the next daemon: forwarding goes on until then.
    let mut end = End::HandOver;
    let ended = tokio::select! {
        () = controller.run(&mut sources) => Ok(()),
        () = watching => Ok(()),
        never = public::serve(public, told, entrances.http) => match never {},
        never = server::serve(listener, commands, doors, entrances.socket) => match never {},
        how = ends.wait() => {
            end = how;
            Ok(())
        }
    };
    controller.stop(end);
    controller.lane.close().await;
    ended
}

/// Proves the backends, then attaches with the first table in force.
async fn begin(
    start: Start<'_>,
    answers: mpsc::Sender<hops::Found>,
    done: mpsc::Sender<Done>,
) -> anyhow::Result<(Controller, Events)> {
    let Start {
        config_path,
        resumed,
        mut revisions,
        seed,
        tables,
        store,
        pins,
        netlink,
    } = start;
    let config = resumed.config.clone();
    let supervisor = Supervisor::starting("proving the backends");
    let (lane, found) = open_lane(&config, &netlink).await;
    let scheduler = Scheduler::new(lane.clone());
    let (mut scheduler, mut probes) = scheduler.context("starting the thread that makes probes")?;
    let incidents = Incidents::resume(&store);
    for error in scheduler.set_targets(incidents.targets(&config)) {
        tracing::error!(%error, "cannot be probed");
    }
    let found = prove(&config, (&netlink, &lane, found), (&scheduler, &mut probes)).await;
    let world = World {
        health: scheduler.states().health(),
        hops: hops::for_members(&config, &found),
        ..World::default()
    };
    let (mut builder, left) =
        tokio::task::block_in_place(|| resume::look(&store, &config.node.pin_dir));
    let built = builder.build(&config, &seed, &world, Instant::now());
    // What fails from here on fails for the kernel's reasons.
    let number = store::first_revision(&mut revisions, &resumed, config_path)
        .context("storing the running configuration")?;
    let placement = placement(&config.node);
    let begun = tokio::task::block_in_place(|| left.begin(&store, placement, &builder, &built))?;
    let running = Running::new(config.clone(), seed, Some(number));
    let mut controller = Controller {
        warnings: change::warnings(&examine(&config, &tables)),
        group: Group::new(running, Some(number)),
        config_path: config_path.to_owned(),
        config,
        origin: resumed.origin,
        number: Some(number),
        unsaved: revisions.take_unnoted(),
        revisions,
        under_way: None,
        preparing: None,
        done,
        seed,
        tables: Arc::new(tables),
        incidents,
        store,
        pins,
        builder,
        seats: begun.seats,
        world,
        ramps: Default::default(),
        relief: Default::default(),
        dataplane: Box::new(begun.dataplane),
        scheduler,
        lane,
        netlink,
        found: Arc::new(found),
        rates: rates::Rates::default(),
        started: Instant::now(),
        clock: Clock::new(),
        lookup: Lookup::new(answers),
        interfaces: Default::default(),
        last_apply: None,
        last_reload: None,
        looks: host::Looks::default(),
        verifier: Default::default(),
        pressure: Default::default(),
        crowds: Default::default(),
        telemetry: Default::default(),
        captures: Default::default(),
        supervisor,
    };
    look_around(&mut controller, &begun.attached).await;
    Ok((controller, probes))
}

/// What is said and looked at once the first table is in force.
async fn look_around(controller: &mut Controller, attached: &[(String, Attached)]) {
    say_attached(attached);
    controller.look_at_host();
    controller.on_network().await;
    controller.tell_ready();
}

fn placement(node: &Node) -> Placement {
    Placement {
        interfaces: node.interfaces.clone(),
        mode: node.xdp_mode,
        pin_dir: node.pin_dir.clone(),
    }
}

/// Seconds since 1970; a clock before that is taken for then.
fn unix_now() -> revision::UnixSeconds {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|since| since.as_secs()).unwrap_or_default()
}

fn load(path: &Path, tables: &TableMemo) -> anyhow::Result<(Config, String)> {
    let counts = |service: &Service, size: u32| tables.slot_counts(service, size);
    let examined = config::load(path, Some(&counts))?;
    let digest = revision::digest(examined.report.text());
    change::log_findings(&examined.report);
    match examined.config {
        Some(mut config) if !examined.report.has_errors() => {
            // It was about the file; what runs is no longer that.
            config.based_on = None;
            Ok((config, digest))
        }
        _ => bail!("{}", examined.report.render(false)),
    }
}

/// Refuses interfaces that do not exist or run somebody else's program,
/// before anything is waited for.
async fn check_interfaces(netlink: &Netlink, node: &Node) -> anyhow::Result<()> {
    let ours = attach::pinned(&node.pin_dir)?;
    for name in &node.interfaces {
        let Some(link) = netlink.link(name).await? else {
            // An earlier daemon was on it, so the name is no slip of the pen:
            // the other interfaces, and whoever is on them, need a daemon.
            if ours.contains(name) {
                tracing::error!(interface = %name, "does not exist; the program is attached when it is back");
                continue;
            }
            bail!("interface {name} does not exist; see `ip link`");
        };
        if let Some(xdp) = link.xdp
            && !ours.contains(name)
        {
            let id = xdp.program_id;
            bail!(
                "interface {name} already has an XDP program (id {id}); it is not replaced: see \
                 `bpftool prog show id {id}`, and detach it or stop its balancer first"
            );
        }
        if !link.up {
            tracing::warn!(interface = %name, "is down");
        }
    }
    Ok(())
}

fn say_attached(attached: &[(String, Attached)]) {
    for (interface, how) in attached {
        match how {
            Attached::Native => tracing::info!(%interface, mode = "native", "attached"),
            Attached::Generic => tracing::warn!(
                %interface,
                mode = "generic",
                "attached; the driver has no native XDP, which costs most of the speed"
            ),
            Attached::Replaced => tracing::info!(
                %interface,
                "replaced the program that an earlier balancer left, without a gap"
            ),
        }
    }
}

/// A probe under way holds a descriptor, and thousands may be.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
