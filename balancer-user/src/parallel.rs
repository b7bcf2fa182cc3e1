//! Work of many parts on all CPUs. Pure as far as the work is.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

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

/// Reads a list of JSON, each item of which is worth some time. Only for the
/// deserializers of `serde_json`.
///
/// # Errors
/// As that of the first item that cannot be read.
pub(crate) fn deserialize<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Send,
{
    let items = Vec::<Box<RawValue>>::deserialize(deserializer)?;
    let read = map(items, |item| serde_json::from_str(item.get()));
    let read: serde_json::Result<Vec<T>> = read.into_iter().collect();
    read.map_err(D::Error::custom)
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

    #[derive(Debug, PartialEq, Deserialize)]
    struct Listed {
        #[serde(deserialize_with = "deserialize")]
        items: Vec<u32>,
    }

    #[test]
    fn json_is_read_in_its_order_from_text_and_from_a_value_and_refused_with_the_fault() {
        let items: Vec<u32> = (0..100).collect();
        let value = serde_json::json!({ "items": items });
        let read: Listed = serde_json::from_str(&value.to_string()).unwrap();
        assert_eq!(read.items, items);
        assert_eq!(read, serde_json::from_value(value).unwrap());
        let fault = serde_json::from_str::<Listed>(r#"{"items":[1,"two"]}"#).unwrap_err();
        assert!(
            fault.to_string().contains("invalid type: string"),
            "{fault}"
        );
    }

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
