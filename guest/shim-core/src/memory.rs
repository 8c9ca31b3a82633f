//! Ranges of memory that a guest names, and the reserved one, which is not the guest's: to it, nothing is there.

use dunix_guest_abi::layout::{BASE, END};

/// Pages that the host maps (x86-64).
const PAGE: u64 = 4096;

/// The parts of a range below and above the reserved range, as address and length, if it meets that; `None`
/// if it does not, or is no range: the host says what is wrong with it.
#[must_use]
pub fn outside(start: u64, length: u64) -> Option<[Option<(u64, u64)>; 2]> {
    let end = start.checked_add(length.checked_next_multiple_of(PAGE)?)?;
    if length == 0 || !start.is_multiple_of(PAGE) || end <= BASE || start >= END {
        return None;
    }
    let below = (start < BASE).then(|| (start, BASE - start));
    let above = (end > END).then(|| (END, end - END));
    Some([below, above])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_around_the_reserved_range_is_the_guests() {
        let all = BASE + (1 << 40);
        assert_eq!(outside(0, all), Some([Some((0, BASE)), Some((END, all - END))]));
        assert_eq!(outside(BASE, END - BASE), Some([None, None]));
        assert_eq!(outside(BASE - PAGE, 1), None);
        assert_eq!(outside(BASE - PAGE, PAGE + 1), Some([Some((BASE - PAGE, PAGE)), None]));
        assert_eq!(outside(END - PAGE, 2 * PAGE), Some([None, Some((END, PAGE))]));
        assert_eq!(outside(END, PAGE), None);
    }

    #[test]
    fn what_is_no_range_is_the_hosts_to_refuse() {
        assert_eq!(outside(BASE, 0), None);
        assert_eq!(outside(BASE + 1, PAGE), None);
        assert_eq!(outside(0, u64::MAX), None);
        assert_eq!(outside(BASE, u64::MAX - PAGE), None);
    }
}
