//! Error numbers of Linux, as a type of their own.

/// An error number; always positive and below 4096.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident = $value:literal),* $(,)?) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($name), "` of errno(3).")]
            pub const $name: Errno = Errno($value);)*
        }
    };
}

errnos! {
    EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, EIO = 5, ENXIO = 6, E2BIG = 7, ENOEXEC = 8,
    EBADF = 9, ECHILD = 10, EAGAIN = 11, ENOMEM = 12, EACCES = 13, EFAULT = 14, EBUSY = 16,
    EEXIST = 17, ENODEV = 19, ENOTDIR = 20, EISDIR = 21, EINVAL = 22, ENOTTY = 25, ESPIPE = 29,
    ERANGE = 34, EDEADLK = 35, ENAMETOOLONG = 36, ENOSYS = 38, ELOOP = 40, EPROTO = 71, ELIBBAD = 80,
    EOPNOTSUPP = 95, EREMOTE = 66, ETIMEDOUT = 110, ECONNREFUSED = 111, EADDRINUSE = 98, EALREADY = 114,
}

impl Errno {
    /// Makes an error of a raw result of a system call, or returns the result.
    ///
    /// # Errors
    /// The error that the kernel reported.
    pub fn check(raw: i64) -> Result<u64, Errno> {
        match raw {
            -4095..=-1 => Err(Errno(u16::try_from(-raw).unwrap_or(u16::MAX))),
            value => Ok(value.cast_unsigned()),
        }
    }

    /// Returns the number as the kernel returns it: negative.
    #[must_use]
    pub const fn as_result(self) -> i64 {
        -(self.0 as i64)
    }

    /// Returns the positive number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_split_at_the_error_range() {
        assert_eq!(Errno::check(-2), Err(Errno::ENOENT));
        assert_eq!(Errno::check(-4095).map_err(Errno::get), Err(4095));
        assert_eq!(Errno::check(0), Ok(0));
        assert_eq!(Errno::check(-4096), Ok((-4096i64).cast_unsigned()));
        assert_eq!(Errno::EINTR.as_result(), -4);
    }
}
