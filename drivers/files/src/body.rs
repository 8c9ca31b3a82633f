//! The data of one file: where they are, and the one descriptor that all its opens share.
//!
//! ```text
//!  Lower ──writer()──► Object(none: empty) ──writer()──► Object(some)
//! ```
//!
//! Owns: the copy-up, which only those wait for who use the same file. Invariant: whoever reads after a
//! change was acknowledged reads the change, through whichever open.

use crate::{
    host::time,
    lower::Lower,
    objects::{self, Objects},
};
use dunix_ids::Ino;
use dunix_wire::files::{Attr, Errno, Time};
use rustix::fs::{Stat, Timespec, Timestamps};
use std::{
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};

/// What of the old data a change needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keep {
    All,
    Nothing,
}

pub(crate) struct Body {
    ino: Ino,
    place: Mutex<Place>,
}

enum Place {
    Lower { path: Vec<u8>, file: Option<Arc<File>> },
    Object { file: Option<Arc<File>> },
}

/// Where to look for data.
#[derive(Clone, Copy)]
pub(crate) struct Stores<'a> {
    pub(crate) lower: &'a Lower,
    pub(crate) objects: &'a Objects,
}

impl Body {
    pub(crate) fn in_lower(ino: Ino, path: Vec<u8>) -> Body {
        Body { ino, place: Mutex::new(Place::Lower { path, file: None }) }
    }

    pub(crate) fn in_object(ino: Ino) -> Body {
        Body { ino, place: Mutex::new(Place::Object { file: None }) }
    }

    /// Whether nobody is at work on the data at this moment.
    pub(crate) fn is_free(&self) -> bool {
        !matches!(self.place.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Returns a file to read from; `None` is an empty one.
    pub(crate) fn reader(&self, stores: Stores<'_>) -> Result<Option<Arc<File>>, Errno> {
        match &mut *self.lock() {
            Place::Lower { path, file } => {
                if file.is_none() {
                    *file = Some(Arc::new(stores.lower.open(path)?));
                }
                Ok(file.clone())
            }
            Place::Object { file } => {
                if file.is_none() {
                    *file = stores.objects.open(self.ino)?.map(Arc::new);
                }
                Ok(file.clone())
            }
        }
    }

    /// Returns a file to write to. Data of the lower are copied first, with their times, which `attr`
    /// has.
    pub(crate) fn writer(
        &self,
        stores: Stores<'_>,
        keep: Keep,
        attr: &Attr,
    ) -> Result<Arc<File>, Errno> {
        let mut place = self.lock();
        let file = match &*place {
            Place::Object { file: Some(file) } => return Ok(Arc::clone(file)),
            Place::Object { file: None } => match stores.objects.open(self.ino)? {
                Some(file) => Arc::new(file),
                None => Arc::new(stores.objects.create(self.ino)?),
            },
            Place::Lower { path, .. } => Arc::new(self.copy_up(stores, keep, attr, path)?),
        };
        *place = Place::Object { file: Some(Arc::clone(&file)) };
        Ok(file)
    }

    /// Returns the object's attributes; `None` if there is no object.
    pub(crate) fn stat(&self, stores: Stores<'_>) -> Option<Stat> {
        match &*self.lock() {
            Place::Lower { .. } => None,
            Place::Object { file: Some(file) } => rustix::fs::fstat(file).ok(),
            Place::Object { file: None } => stores.objects.stat(self.ino),
        }
    }

    /// Sets the object's times; without an object those of the tree count.
    pub(crate) fn set_times(&self, stores: Stores<'_>, atime: Time, mtime: Time) {
        let file = match &*self.lock() {
            Place::Lower { .. } => None,
            Place::Object { file: Some(file) } => Some(Arc::clone(file)),
            Place::Object { file: None } => {
                stores.objects.open(self.ino).ok().flatten().map(Arc::new)
            }
        };
        if let Some(file) = file {
            set_times(&file, atime, mtime);
        }
    }

    /// Closes the descriptor; it is opened again when needed.
    pub(crate) fn rest(&self) {
        match &mut *self.lock() {
            Place::Lower { file, .. } | Place::Object { file } => *file = None,
        }
    }

    fn copy_up(
        &self,
        stores: Stores<'_>,
        keep: Keep,
        attr: &Attr,
        path: &[u8],
    ) -> Result<File, Errno> {
        let object = stores.objects.create(self.ino)?;
        if keep == Keep::All {
            // A descriptor of its own: a copy moves the offset.
            let copied = stores.lower.open(path).and_then(|file| objects::copy(&file, &object));
            if let Err(errno) = copied {
                stores.objects.remove(self.ino);
                return Err(errno);
            }
            set_times(&object, attr.atime, attr.mtime);
        }
        Ok(object)
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts an object's size and times in place of the tree's.
#[expect(clippy::unnecessary_cast, reason = "the field's types differ between architectures")]
pub(crate) fn overlay(attr: &mut Attr, stat: &Stat) {
    attr.size = u64::try_from(stat.st_size).unwrap_or(0);
    attr.blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    attr.atime = time(stat.st_atime as i64, stat.st_atime_nsec as i64);
    attr.mtime = time(stat.st_mtime as i64, stat.st_mtime_nsec as i64);
    attr.ctime = attr.ctime.max(time(stat.st_ctime as i64, stat.st_ctime_nsec as i64));
}

fn set_times(file: &File, atime: Time, mtime: Time) {
    let spec = |time: Time| Timespec { tv_sec: time.secs, tv_nsec: i64::from(time.nanos) };
    let times = Timestamps { last_access: spec(atime), last_modification: spec(mtime) };
    if let Err(error) = rustix::fs::futimens(file, &times) {
        tracing::warn!(%error, "an object's times cannot be set");
    }
}
