//! Of the control API: live packets, as they came and as they left.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Packets a second that are told of where nothing else is asked for.
pub const DEFAULT_LIMIT: u32 = 1_000;
/// Most that may be asked for.
pub const MAX_LIMIT: u32 = 1_000_000;

/// What is to be captured. Several values of a list are alternatives; an empty
/// list is anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureRequest {
    /// Names of services.
    pub services: Vec<String>,
    /// Backends: `web-1` of any service, or `web/web-1`.
    pub backends: Vec<String>,
    /// `pass`, `drop`, `tx` or `redirect`.
    pub verdicts: Vec<String>,
    /// Names of reasons, as `balancer status` has them.
    pub reasons: Vec<String>,
    /// One packet in so many is looked at, by chance.
    pub sample: u32,
    /// Bytes of each frame that are kept; none is all of it.
    pub snaplen: Option<u32>,
    /// Packets a second at most, 1 to 1,000,000.
    pub limit: u32,
    /// It ends after so many packets.
    pub count: Option<u64>,
    /// It ends after that time.
    pub for_millis: Option<u64>,
}

impl Default for CaptureRequest {
    /// Whole packets of any kind, every one up to the limit.
    fn default() -> Self {
        Self {
            services: Vec::new(),
            backends: Vec::new(),
            verdicts: Vec::new(),
            reasons: Vec::new(),
            sample: 1,
            snaplen: None,
            limit: DEFAULT_LIMIT,
            count: None,
            for_millis: None,
        }
    }
}

/// What is told of a capture, one object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Captured {
    /// It has begun.
    Begun {
        /// Its number, to end it by.
        capture: u64,
        /// What is captured, in a sentence.
        what: String,
        /// The interfaces that packets come in on.
        interfaces: Vec<String>,
        /// Bytes of a frame that are kept.
        snaplen: u32,
    },
    /// A packet.
    Packet(Box<CapturedPacket>),
    /// It is over, and the packet path is as it was before.
    Over {
        /// Why, in a sentence.
        why: String,
        /// What was counted.
        figures: CaptureFigures,
    },
}

/// A packet as it came, what was done with it, and how it left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CapturedPacket {
    /// Of this capture, from 1.
    pub number: u64,
    /// When, in seconds since 1970;
    pub seconds: u64,
    /// and nanoseconds from then.
    pub nanos: u32,
    /// The interface it came in on.
    pub interface: String,
    /// The receive queue there.
    pub queue: u32,
    /// `pass`, `drop`, `tx` or `redirect`.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// The service it is for, or a reply is from.
    pub service: Option<String>,
    /// The backend it goes to, or a reply is from.
    pub backend: Option<String>,
    /// The slot its flow falls into, where a backend was picked.
    pub slot: Option<u32>,
    /// The flow's hash, in hex.
    pub hash: Option<String>,
    /// The frame as it came.
    pub frame: CapturedFrame,
    /// The interface it left by, where that is known.
    pub out_interface: Option<String>,
    /// The frame as it left; none if it was dropped or passed.
    pub out: Option<CapturedFrame>,
}

/// A frame, or as much of it as was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CapturedFrame {
    /// Bytes it had.
    pub len: u32,
    /// Its bytes from the Ethernet header on, in Base64.
    pub bytes: String,
}

/// What was counted of a capture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CaptureFigures {
    /// Packets that were told of.
    pub captured: u64,
    /// Packets that were wanted and had no room to wait in.
    pub lost: u64,
    /// Packets that were wanted, above the limit of a second.
    pub limited: u64,
    /// Packets that were looked at.
    pub looked_at: u64,
}

/// Ends a capture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaptureStopRequest {
    /// Its number; none is whichever is on.
    #[serde(default)]
    pub capture: Option<u64>,
}

/// The capture that is on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaptureStatus {
    /// Its number.
    pub capture: u64,
    /// Who began it.
    pub author: String,
    /// Seconds since then.
    pub seconds: u64,
    /// What is captured, in a sentence.
    pub what: String,
    /// What was counted, up to a second ago.
    pub figures: CaptureFigures,
}
