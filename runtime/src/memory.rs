//! Memory of this process that can become a buffer where it is.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::{MmapMut, MmapOptions};

/// Pages of this process's memory, zero at first, which [`Buffer::from_memory`](crate::Buffer::from_memory) makes a
/// tensor of without copying them where the device is the CPU. The system provides a page when it is first written to.
#[derive(Debug)]
pub struct HostMemory {
    /// `None` of no bytes.
    pages: Option<MmapMut>,
}

impl HostMemory {
    /// So many bytes of zeros.
    ///
    /// # Errors
    /// When the system has not that many.
    pub fn zeros(len: usize) -> io::Result<HostMemory> {
        let pages = if len == 0 { None } else { Some(MmapOptions::new().len(len).map_anon()?) };
        Ok(HostMemory { pages })
    }

    /// As [`HostMemory::zeros`], for memory that will be written to as a whole: in large pages where there are some, which
    /// the system provides, and the processor finds, in less time.
    ///
    /// # Errors
    /// As [`HostMemory::zeros`].
    pub fn to_fill(len: usize) -> io::Result<HostMemory> {
        let memory = HostMemory::zeros(len)?;
        #[cfg(target_os = "linux")]
        if let Some(pages) = &memory.pages {
            // A kernel without large pages refuses, and small ones do.
            let _ = pages.advise(memmap2::Advice::HugePage);
        }
        Ok(memory)
    }
}

impl Deref for HostMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pages.as_deref().unwrap_or_default()
    }
}

impl DerefMut for HostMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.pages.as_deref_mut().unwrap_or_default()
    }
}
