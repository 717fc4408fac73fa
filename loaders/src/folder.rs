//! Files that a model refers to, confined to the model's folder.
//!
//! A location is a relative path without `..`; neither it nor a folder on the way may be a link, and the file may have
//! no second hard link: either would let a model read files that its author does not own (CVE-2022-25882,
//! CVE-2024-27318, CVE-2024-5187). Links of the hub's cache into its own blobs are the exception. Files are mapped once
//! and shared by all tensors in them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

/// The external files of one model.
pub(crate) struct Folder {
    root: PathBuf,
    open: RefCell<BTreeMap<PathBuf, bytes::Bytes>>,
}

impl Folder {
    /// The folder of the model file `model`.
    pub(crate) fn of(model: &Path) -> Self {
        let root = match model.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Folder { root, open: RefCell::default() }
    }

    /// The folder `root` itself.
    pub(crate) fn at(root: &Path) -> Self {
        Folder { root: root.to_owned(), open: RefCell::default() }
    }

    /// A location as messages name it.
    pub(crate) fn display(&self, location: &str) -> String {
        self.root.join(location).display().to_string()
    }

    /// Whether something is at a location.
    pub(crate) fn has(&self, location: &str) -> bool {
        self.path(location).is_ok_and(|path| path.exists())
    }

    /// Where a location lies; the file may be missing.
    pub(crate) fn path(&self, location: &str) -> Result<PathBuf, String> {
        confined(location).map(|relative| self.root.join(relative))
    }

    /// The content of the file at a location.
    pub(crate) fn file(&self, location: &str) -> Result<bytes::Bytes, String> {
        let relative = confined(location)?;
        if let Some(bytes) = self.open.borrow().get(&relative) {
            return Ok(bytes.clone());
        }
        let mut path = self.root.clone();
        let mut is_file = false;
        for part in relative.components() {
            path.push(part);
            let meta = std::fs::symlink_metadata(&path).map_err(|e| format!("`{location}`: {e}"))?;
            if meta.file_type().is_symlink() {
                let blob = self.blob(&path).filter(|_| relative.components().count() == 1);
                path = blob.ok_or_else(|| format!("`{location}` leads through a symbolic link"))?;
                is_file = path.is_file();
                continue;
            }
            is_file = meta.is_file();
        }
        // Before it is opened: a pipe that nobody writes to lets the opener wait.
        if !is_file {
            return Err(format!("`{location}` is not a regular file"));
        }
        let file = File::open(&path).map_err(|e| format!("`{location}`: {e}"))?;
        let meta = file.metadata().map_err(|e| format!("`{location}`: {e}"))?;
        if !meta.is_file() {
            return Err(format!("`{location}` is not a regular file"));
        }
        if has_other_names(&meta) {
            return Err(format!("`{location}` is hard-linked to another name"));
        }
        // Between the check and the open a folder could have been swapped for a link: look at where we are.
        let real = path.canonicalize().map_err(|e| format!("`{location}`: {e}"))?;
        let root = self.root.canonicalize().map_err(|e| format!("`{}`: {e}", self.root.display()))?;
        if !real.starts_with(&root) && self.blob(&path).as_ref() != Some(&real) {
            return Err(format!("`{location}` lies outside the model's folder"));
        }
        let bytes = crate::map::map(&file).map_err(|e| format!("`{location}`: {e}"))?;
        self.open.borrow_mut().insert(relative, bytes.clone());
        Ok(bytes)
    }
}

impl Folder {
    /// Where a link of a snapshot in the hub's cache leads: from `MODEL/snapshots/REVISION` to `MODEL/blobs`, whose files
    /// are that model's and no others. None for other links, and where a link is on the way to the blobs.
    fn blob(&self, link: &Path) -> Option<PathBuf> {
        let root = self.root.canonicalize().ok()?;
        let snapshots = root.parent().filter(|parent| parent.ends_with("snapshots"))?;
        let blobs = snapshots.parent()?.join("blobs");
        let real = link.canonicalize().ok()?;
        (real.parent() == Some(&*blobs)).then_some(real)
    }
}

#[cfg(unix)]
fn has_other_names(meta: &std::fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(meta) > 1
}

#[cfg(not(unix))]
fn has_other_names(_: &std::fs::Metadata) -> bool {
    false
}

/// A location as a relative path of plain names.
fn confined(location: &str) -> Result<PathBuf, String> {
    if location.is_empty() || location.contains('\0') {
        return Err("the location is empty or holds a NUL".to_owned());
    }
    // A backslash separates folders elsewhere; a file that relies on it is not portable, and may try to hide a `..`.
    if location.contains('\\') {
        return Err(format!("`{location}` holds a backslash"));
    }
    let mut path = PathBuf::new();
    for part in Path::new(location).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(format!("`{location}` leaves the model's folder"));
            }
        }
    }
    if path.as_os_str().is_empty() {
        return Err(format!("`{location}` names no file"));
    }
    Ok(path)
}
