//! The ports that clients of a service dial.

use std::fmt;

/// The ports of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Every port (`"any"`).
    Any,
    /// Inclusive ranges, sorted, neither touching nor overlapping; a single
    /// port is a range of one.
    Ranges(Vec<(u16, u16)>),
}

impl Ports {
    /// One port.
    pub fn one(port: u16) -> Self {
        Self::Ranges(vec![(port, port)])
    }

    /// How many ports these are.
    pub fn count(&self) -> usize {
        match self {
            Self::Any => 65_535,
            Self::Ranges(ranges) => ranges
                .iter()
                .map(|(first, last)| usize::from(*last) - usize::from(*first) + 1)
                .sum(),
        }
    }

    /// Every port in order; nothing for [`Ports::Any`].
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let ranges: &[(u16, u16)] = match self {
            Self::Any => &[],
            Self::Ranges(ranges) => ranges,
        };
        ranges.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// The port probes use where the file names none: the only or lowest one.
    pub fn first(&self) -> Option<u16> {
        self.iter().next()
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Ranges(ranges) => {
                for (index, (first, last)) in ranges.iter().enumerate() {
                    if index > 0 {
                        f.write_str(",")?;
                    }
                    write!(f, "{first}")?;
                    if last != first {
                        write!(f, "-{last}")?;
                    }
                }
                Ok(())
            }
        }
    }
}
