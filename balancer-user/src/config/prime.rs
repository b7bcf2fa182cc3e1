//! Primes, as table sizes must be.

/// The largest table that is taken: some 4 MB of slots for each service.
pub const MAX_TABLE_SIZE: u32 = 1_000_003;

/// Whether `number` is prime. Trial division: table sizes are small.
pub fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| u64::from(*divisor) * u64::from(*divisor) <= u64::from(number))
            .all(|divisor: u32| !number.is_multiple_of(divisor))
}

/// The smallest prime table size not below `number`, at most
/// [`MAX_TABLE_SIZE`].
pub fn table_size_from(number: u32) -> u32 {
    (number..MAX_TABLE_SIZE)
        .find(|candidate| is_prime(*candidate))
        .unwrap_or(MAX_TABLE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_primes_and_the_limits() {
        let primes: Vec<u32> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537));
        assert!(!is_prime(65_536));
        assert!(is_prime(MAX_TABLE_SIZE));
        assert!(!is_prime(u32::MAX));
    }

    #[test]
    fn next_size_is_prime_and_bounded() {
        assert_eq!(table_size_from(65_536), 65_537);
        assert_eq!(table_size_from(65_537), 65_537);
        assert_eq!(table_size_from(u32::MAX), MAX_TABLE_SIZE);
        assert_eq!(table_size_from(0), 2);
    }
}
