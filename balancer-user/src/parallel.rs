//! Work of many parts on all CPUs. Pure as far as the work is.

/// Fewer parts are not worth a thread.
const LEAST: usize = 16;

/// Does the work of each item; results are in the order of the items.
pub(crate) fn map<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let part = items.len().div_ceil(cpus).max(LEAST);
    map_parts(items, part, work)
}

/// As [`map`], of items that are worth a thread each.
pub(crate) fn map_each<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    map_parts(items, 1, work)
}

fn map_parts<T: Send, R: Send>(items: Vec<T>, part: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    if items.len() <= part {
        return items.into_iter().map(work).collect();
    }
    let work = &work;
    let mut items = items.into_iter();
    std::thread::scope(|scope| {
        let mut parts = Vec::new();
        loop {
            let part: Vec<T> = items.by_ref().take(part).collect();
            if part.is_empty() {
                break;
            }
            parts.push(scope.spawn(move || part.into_iter().map(work).collect::<Vec<R>>()));
        }
        let done = parts.into_iter().map(|part| match part.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        done.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items_however_many() {
        for count in [0, 1, LEAST, LEAST + 1, 1000] {
            let squares = map((0..count).collect(), |item| item * item);
            let expected: Vec<usize> = (0..count).map(|item| item * item).collect();
            assert_eq!(squares, expected);
            let squares = map_each((0..count.min(9)).collect(), |item| item * item);
            assert_eq!(squares, expected[..count.min(9)]);
        }
    }
}
