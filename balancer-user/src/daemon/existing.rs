//! What becomes of flows that exist: those that the kernel has on record, and
//! those of a capture that somebody sends with a request for a plan.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::planning::{Judged, planned};
use super::preparing::{Scene, on_stage};
use crate::api::types::{PlanRequest, Planned, Problem};
use crate::dataplane::Error;
use crate::dataplane::shadow::Blueprint;
use crate::rehearsal::{Candidate, Moves, moves, recorded};

/// Most records that are asked for: each takes a few runs of the program.
const MAX_RECORDS: usize = 5_000;

/// What somebody wants to know of existing flows.
pub(super) struct Questions {
    /// Of those on record.
    of_records: bool,
    /// Of those that these packets belong to.
    frames: Vec<Vec<u8>>,
}

impl Questions {
    /// Takes the packets out of a request.
    ///
    /// # Errors
    /// One is no Base64.
    pub(super) fn of(request: &mut PlanRequest) -> Result<Self, Problem> {
        let frames = std::mem::take(&mut request.frames);
        let decoded = (0..).zip(frames).map(|(at, text)| {
            STANDARD.decode(text).map_err(|error| {
                let detail = format!("frames[{at}] is no Base64: {error}");
                Problem::new("bad request", 400, detail)
            })
        });
        Ok(Self {
            of_records: request.flows,
            frames: decoded.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn is_any(&self) -> bool {
        self.of_records || !self.frames.is_empty()
    }

    /// The plan with the answers. A file that is refused has no tables to
    /// ask.
    pub(super) async fn answered(
        self,
        judged: Judged,
        scene: Option<Scene>,
        blueprint: Option<Blueprint>,
        color: bool,
    ) -> Result<Planned, Problem> {
        let stage = judged.config.clone().zip(scene);
        let mut planned = planned(judged, color);
        let Some((config, scene)) = stage else {
            return Ok(planned);
        };
        let answers = on_stage(config, scene, move |scene, candidate| {
            self.ask(scene, candidate, blueprint)
        });
        (planned.recorded, planned.captured) = answers.await?.map_err(|error| {
            let detail = format!("the kernel program could not be asked: {error}");
            Problem::new("not available", 503, detail)
        })?;
        Ok(planned)
    }

    fn ask(
        self,
        scene: &Scene,
        candidate: &Candidate,
        blueprint: Option<Blueprint>,
    ) -> Result<(Option<Moves>, Option<Moves>), Error> {
        let of_records = match blueprint.filter(|_| self.of_records) {
            Some(blueprint) => Some(ask_records(&blueprint, scene, candidate)?),
            None => None,
        };
        let frames = self.frames.iter().map(Vec::as_slice);
        let of_frames = match self.frames.is_empty() {
            true => None,
            false => Some(moves(&scene.in_force, &candidate.tables, frames)?),
        };
        Ok((of_records, of_frames))
    }
}

fn ask_records(
    blueprint: &Blueprint,
    scene: &Scene,
    candidate: &Candidate,
) -> Result<Moves, Error> {
    let keys = blueprint.recorded(MAX_RECORDS)?;
    // To load a copy takes long.
    if keys.is_empty() {
        return Ok(Moves::default());
    }
    let mut shadow = blueprint.load()?;
    recorded(
        &mut shadow,
        &scene.in_force,
        candidate,
        &scene.running,
        &keys,
    )
}
