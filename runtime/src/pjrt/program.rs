//! A compiled program without its devices: what can be asked of it, and its serialized form.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_int;

use super::api::*;
use super::calls::{Api, NamedValue, call, read_array, read_named_values, read_text};
use crate::error::PjrtError;

/// Sizes of a compiled program, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct CompiledMemoryStats {
    /// Machine code. Zero where the plugin does not count it.
    pub generated_code: i64,
    /// All arguments.
    pub arguments: i64,
    /// All outputs.
    pub outputs: i64,
    /// The part of the outputs that takes the memory of donated arguments.
    pub alias: i64,
    /// Temporaries.
    pub temporaries: i64,
    /// The most that is alive at once: arguments, outputs and temporaries.
    pub peak: i64,
}

/// A compiled program, of which questions can be asked.
pub(crate) struct ProgramHandle {
    api: &'static Api,
    executable: *mut PJRT_Executable,
}

// SAFETY: PJRT executables may be used from any thread, and from several at once.
unsafe impl Send for ProgramHandle {}
// SAFETY: as for `Send`.
unsafe impl Sync for ProgramHandle {}

impl Drop for ProgramHandle {
    fn drop(&mut self) {
        let mut args = PJRT_Executable_Destroy_Args::new();
        args.executable = self.executable;
        // SAFETY: this handle owns the executable.
        if let Err(error) = unsafe { call!(self.api, PJRT_Executable_Destroy, args) } {
            tracing::warn!(%error, "an executable was not freed");
        }
    }
}

impl ProgramHandle {
    /// Takes over an executable.
    ///
    /// # Safety
    /// `executable` is alive, of the plugin `api`, and nobody else frees it.
    pub(super) unsafe fn from_raw(api: &'static Api, executable: *mut PJRT_Executable) -> ProgramHandle {
        ProgramHandle { api, executable }
    }

    pub(super) fn num_outputs(&self) -> Result<usize, PjrtError> {
        let mut args = PJRT_Executable_NumOutputs_Args::new();
        args.executable = self.executable;
        // SAFETY: the executable is alive.
        Ok(unsafe { call!(self.api, PJRT_Executable_NumOutputs, args) }?.num_outputs)
    }

    pub(crate) fn fingerprint(&self) -> Result<Vec<u8>, PjrtError> {
        let mut args = PJRT_Executable_Fingerprint_Args::new();
        args.executable = self.executable;
        // SAFETY: the executable is alive, and so are the bytes that are copied here.
        unsafe {
            let args = call!(self.api, PJRT_Executable_Fingerprint, args)?;
            Ok(read_array(args.executable_fingerprint.cast::<u8>(), args.executable_fingerprint_size))
        }
    }

    /// The type (`PJRT_Buffer_Type`) and dimensions of every output.
    pub(crate) fn outputs(&self) -> Result<Vec<(c_int, Vec<i64>)>, PjrtError> {
        let mut types = PJRT_Executable_OutputElementTypes_Args::new();
        types.executable = self.executable;
        let mut dims = PJRT_Executable_OutputDimensions_Args::new();
        dims.executable = self.executable;
        // SAFETY: the executable is alive, and so are the arrays that are copied here. The plugin returns the
        // dimensions of all outputs in one array, whose length is the sum of the ranks.
        let (types, ranks, dims) = unsafe {
            let types = call!(self.api, PJRT_Executable_OutputElementTypes, types)?;
            let dims = call!(self.api, PJRT_Executable_OutputDimensions, dims)?;
            let ranks = read_array(dims.dim_sizes, dims.num_outputs);
            let all = read_array(dims.dims, ranks.iter().sum());
            (read_array(types.output_types.cast_const(), types.num_output_types), ranks, all)
        };
        let mut rest = dims.as_slice();
        let mut outputs = Vec::with_capacity(types.len());
        for (kind, rank) in types.into_iter().zip(ranks) {
            let (dims, tail) = rest.split_at(rank);
            rest = tail;
            outputs.push((kind, dims.to_vec()));
        }
        Ok(outputs)
    }

    pub(crate) fn memory_stats(&self) -> Result<CompiledMemoryStats, PjrtError> {
        let mut args = PJRT_Executable_GetCompiledMemoryStats_Args::new();
        args.executable = self.executable;
        // SAFETY: the executable is alive.
        let args = unsafe { call!(self.api, PJRT_Executable_GetCompiledMemoryStats, args) }?;
        Ok(CompiledMemoryStats {
            generated_code: args.generated_code_size_in_bytes,
            arguments: args.argument_size_in_bytes,
            outputs: args.output_size_in_bytes,
            alias: args.alias_size_in_bytes,
            temporaries: args.temp_size_in_bytes,
            peak: args.peak_memory_in_bytes,
        })
    }

    pub(crate) fn cost_analysis(&self) -> Result<BTreeMap<String, NamedValue>, PjrtError> {
        let mut args = PJRT_Executable_GetCostAnalysis_Args::new();
        args.executable = self.executable;
        // SAFETY: the executable is alive, and so are the values that are copied here.
        unsafe {
            let args = call!(self.api, PJRT_Executable_GetCostAnalysis, args)?;
            Ok(read_named_values(args.properties, args.num_properties))
        }
    }

    /// The program in the plugin's own form, for [`ClientHandle::deserialize`].
    pub(crate) fn serialize(&self) -> Result<Vec<u8>, PjrtError> {
        let mut args = PJRT_Executable_Serialize_Args::new();
        args.executable = self.executable;
        // SAFETY: the executable is alive; the bytes are copied before their owner is freed by its own deleter.
        unsafe {
            let args = call!(self.api, PJRT_Executable_Serialize, args)?;
            let bytes = read_array(args.serialized_bytes.cast::<u8>(), args.serialized_bytes_size);
            if let Some(delete) = args.serialized_executable_deleter {
                delete(args.serialized_executable);
            }
            Ok(bytes)
        }
    }

    /// The optimized program and the name of its form, `hlo` or `hlo_with_config` (`HloModuleProtoWithConfig`).
    pub(crate) fn optimized(&self) -> Result<(String, Vec<u8>), PjrtError> {
        let mut program = PJRT_Program::new();
        let mut args = PJRT_Executable_OptimizedProgram_Args::new();
        args.executable = self.executable;
        args.program = &mut program;
        // SAFETY: the executable is alive, and so is `program`. With no room for the code the plugin tells its size and
        // its format, whose name is static.
        unsafe { call!(self.api, PJRT_Executable_OptimizedProgram, args) }?;
        // SAFETY: as said; the name is copied here.
        let format = unsafe { read_text(program.format, program.format_size) };
        let mut code = vec![0u8; program.code_size];
        program.code = code.as_mut_ptr().cast();
        let mut args = PJRT_Executable_OptimizedProgram_Args::new();
        args.executable = self.executable;
        args.program = &mut program;
        // SAFETY: the executable is alive, and `code` has the size that the plugin has just asked for.
        unsafe { call!(self.api, PJRT_Executable_OptimizedProgram, args) }?;
        Ok((format, code))
    }
}
