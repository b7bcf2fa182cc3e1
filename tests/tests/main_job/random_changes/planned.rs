//! What a plan says of flows and slots.

use super::*;

pub(super) fn plan_of<'p>(plan: &'p Plan, flow: &Flow) -> Option<&'p ServicePlan> {
    plan.services.iter().find(|it| it.name == flow.service)
}

/// Whether the plan says that the flow breaks.
pub(super) fn breaks(plan: &Plan, flow: &Flow) -> bool {
    let mut breaks = plan_of(plan, flow)
        .into_iter()
        .flat_map(|it| &it.established.breaks);
    breaks.any(|it| {
        it.backend
            .as_ref()
            .is_none_or(|backend| *backend == flow.backend)
    })
}

/// Whether the plan says that all flows of its service break.
pub(super) fn cuts_off(plan: &Plan, flow: &Flow) -> bool {
    let mut breaks = plan_of(plan, flow)
        .into_iter()
        .flat_map(|it| &it.established.breaks);
    breaks.any(|it| it.backend.is_none())
}

/// What the kernel held and holds is what the plan said.
pub(super) fn as_planned(plan: &Plan, before: &Held, after: &Held) -> Result<()> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (was, is) = (before.get(name), after.get(name));
        let Some(planned) = plan.services.iter().find(|it| it.name == *name) else {
            ensure!(was == is, "service {name} changed and is not in the plan");
            continue;
        };
        let owners = |of: Option<&HeldService>| of.map_or_else(Vec::new, |it| it.owners.clone());
        let (was_owners, is_owners) = (owners(was), owners(is));
        ensure!(
            planned.slots_now as usize == was_owners.len(),
            "{planned:?}"
        );
        ensure!(
            planned.slots_after as usize == is_owners.len(),
            "{planned:?}"
        );
        for backend in &planned.backends {
            let count =
                |owners: &[String]| owners.iter().filter(|it| **it == backend.name).count() as u32;
            let (now, then) = (count(&was_owners), count(&is_owners));
            ensure!(
                backend.slots_now.unwrap_or(0) == now && backend.slots_after.unwrap_or(0) == then,
                "service {name}: {now} slots and then {then}: {backend:?}"
            );
        }
        // At another address it is another service of that name.
        let is_another = planned.settings.iter().any(|it| it.key == "address");
        if planned.fate != Fate::Changed || is_another {
            continue;
        }
        let mut moves: BTreeMap<(&String, &String), u32> = BTreeMap::new();
        for (from, to) in was_owners.iter().zip(&is_owners).filter(|(a, b)| a != b) {
            *moves.entry((from, to)).or_default() += 1;
        }
        ensure!(
            planned.slots_moved == moves.values().sum::<u32>(),
            "{planned:?}"
        );
        let said: BTreeMap<(&String, &String), u32> = planned
            .moves
            .iter()
            .filter_map(|it| Some(((it.from.as_ref()?, it.to.as_ref()?), it.slots)))
            .collect();
        ensure!(said == moves, "service {name}: {moves:?}, planned {said:?}");
    }
    Ok(())
}
