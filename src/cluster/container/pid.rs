use std::fs;
use std::io;
use std::path::PathBuf;
use std::process;

/// The file that holds the number of this process. The drop removes it, unless another process has written it since.
pub(super) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    pub(super) fn write(path: PathBuf) -> Result<Self, (PathBuf, io::Error)> {
        let written = match path.parent() {
            Some(folder) => fs::create_dir_all(folder),
            None => Ok(()),
        };
        match written.and_then(|()| fs::write(&path, format!("{}\n", process::id()))) {
            Ok(()) => Ok(Self { path }),
            Err(error) => Err((path, error)),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let is_ours = fs::read_to_string(&self.path)
            .is_ok_and(|text| text.trim() == process::id().to_string());
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            log::warn!(target: "epicycle::cluster", "{} stays: {error}", self.path.display());
        }
    }
}
