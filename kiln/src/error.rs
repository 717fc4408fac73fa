//! One error for everything between a file and a result.

use std::path::PathBuf;

/// Why a model does not load, compile or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model file is at fault.
    #[error(transparent)]
    Load(#[from] kiln_loaders::LoadError),
    /// A pass failed.
    #[error(transparent)]
    Pass(#[from] kiln_passes::PassError),
    /// The model could not be quantized.
    #[error(transparent)]
    Quantize(#[from] kiln_passes::quantize::QuantizeError),
    /// The model cannot be quantized as was asked for.
    #[error("{reason}")]
    Quantization {
        /// Why not.
        reason: String,
    },
    /// The model cannot be sparsified as was asked for.
    #[error("{reason}")]
    Sparsify {
        /// Why not.
        reason: String,
    },
    /// Calibration failed, or its data does not fit.
    #[error(transparent)]
    Calibration(Box<crate::quantize::CalibrationError>),
    /// Code generation failed.
    #[error(transparent)]
    Compile(#[from] kiln_codegen::build::CompileError),
    /// The artifact, or the machine it runs on, is at fault.
    #[error(transparent)]
    Artifact(#[from] kiln_runtime::LoadError),
    /// The run failed.
    #[error(transparent)]
    Run(#[from] kiln_runtime::RunError),
    /// The threads that compile could not be started.
    #[error("starting threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// An artifact was given where only a model makes sense.
    #[error("{}: this is a compiled artifact; {what} needs the model", path.display())]
    NeedsModel {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        what: &'static str,
    },
}

impl From<crate::quantize::DataError> for Error {
    fn from(e: crate::quantize::DataError) -> Self {
        Error::Calibration(Box::new(e.into()))
    }
}

impl From<crate::quantize::CalibrationError> for Error {
    fn from(e: crate::quantize::CalibrationError) -> Self {
        Error::Calibration(Box::new(e))
    }
}
