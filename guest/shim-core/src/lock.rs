//! Which bytes of a file a `struct flock` means (fcntl(2)).

/// Kinds of locks.
pub const F_RDLCK: i16 = 0;
/// Excludes everybody.
pub const F_WRLCK: i16 = 1;
/// None.
pub const F_UNLCK: i16 = 2;
/// From the file's beginning.
pub const SEEK_SET: i16 = 0;
/// From the offset.
pub const SEEK_CUR: i16 = 1;
/// From the file's end.
pub const SEEK_END: i16 = 2;

/// First and last byte.
pub type Place = (u64, u64);

/// The bytes of a lock whose start counts from `base`; `None` if the kernel refuses such a lock.
#[must_use]
pub fn place(kind: i16, base: i64, start: i64, length: i64) -> Option<Place> {
    if !matches!(kind, F_RDLCK | F_WRLCK | F_UNLCK) {
        return None;
    }
    let start = base.checked_add(start)?;
    let (first, last) = match length {
        0 => (start, i64::MAX),
        1.. => (start, start.checked_add(length - 1)?),
        _ => (start.checked_add(length)?, start.checked_sub(1)?),
    };
    Some((u64::try_from(first).ok()?, u64::try_from(last).ok()?))
}

/// `l_start` and `l_len` of such bytes, from the file's beginning.
#[must_use]
pub const fn start_and_length(first: u64, last: u64) -> (i64, i64) {
    let length = if last >= i64::MAX.cast_unsigned() { 0 } else { last - first + 1 };
    (first.cast_signed(), length.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_that_the_kernel_takes() {
        let end = i64::MAX.cast_unsigned();
        assert_eq!(place(F_RDLCK, 0, 0, 0), Some((0, end)));
        assert_eq!(place(F_WRLCK, 10, 5, 1), Some((15, 15)));
        assert_eq!(place(F_WRLCK, 10, 0, -10), Some((0, 9)));
        assert_eq!(place(F_WRLCK, 10, 0, -11), None);
        assert_eq!(place(F_WRLCK, 0, -1, 5), None);
        assert_eq!(place(F_WRLCK, i64::MAX, 1, 1), None);
        assert_eq!(place(F_UNLCK, 0, i64::MAX, 2), None);
        assert_eq!(place(3, 0, 0, 1), None);
    }

    #[test]
    fn a_lock_to_the_end_has_no_length() {
        for (base, start, length) in [(0, 0, 0), (0, 7, 3), (9, -2, -4)] {
            let (first, last) = place(F_WRLCK, base, start, length).expect("a lock");
            let (start, length) = start_and_length(first, last);
            assert_eq!(place(F_WRLCK, 0, start, length), Some((first, last)));
        }
    }
}
