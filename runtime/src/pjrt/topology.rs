//! Devices that are only described, and compilation for them.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ptr;

use super::api::*;
use super::calls::{Api, NamedValue, call, mlir_program, named_value};
use super::program::ProgramHandle;
use crate::error::PjrtError;

/// The description of devices that need not exist.
pub(crate) struct TopologyHandle {
    api: &'static Api,
    topology: *mut PJRT_TopologyDescription,
}

impl Drop for TopologyHandle {
    fn drop(&mut self) {
        let mut args = PJRT_TopologyDescription_Destroy_Args::new();
        args.topology = self.topology;
        // SAFETY: this handle owns the topology, and what is compiled for it keeps nothing of it.
        if let Err(error) = unsafe { call!(self.api, PJRT_TopologyDescription_Destroy, args) } {
            tracing::warn!(%error, "a topology was not freed");
        }
    }
}

impl TopologyHandle {
    /// A topology with these options. A name that the plugin does not know is passed over without a word.
    pub(crate) fn create(
        api: &'static Api,
        options: &BTreeMap<String, NamedValue>,
    ) -> Result<TopologyHandle, PjrtError> {
        let options: Vec<PJRT_NamedValue> = options.iter().map(|(name, value)| named_value(name, value)).collect();
        let mut args = PJRT_TopologyDescription_Create_Args::new();
        let name = "";
        args.topology_name = name.as_ptr().cast();
        args.topology_name_size = name.len();
        args.create_options = options.as_ptr();
        args.num_options = options.len();
        // SAFETY: the options and the names and values they point to live until after the call.
        let args = unsafe { call!(api, PJRT_TopologyDescription_Create, args) }?;
        Ok(TopologyHandle { api, topology: args.topology })
    }

    /// Compiles a program in MLIR's text form with an encoded `CompileOptionsProto`, without any device.
    pub(crate) fn compile(&self, mlir: &str, options: &[u8]) -> Result<ProgramHandle, PjrtError> {
        let program = mlir_program(mlir);
        let mut args = PJRT_Compile_Args::new();
        args.topology = self.topology;
        args.program = &program;
        args.compile_options = options.as_ptr().cast();
        args.compile_options_size = options.len();
        args.client = ptr::null_mut();
        // SAFETY: the topology is alive; program, format and options live until after the call and are only read; a
        // null client is what a compilation without devices has.
        let args = unsafe { call!(self.api, PJRT_Compile, args) }?;
        // SAFETY: the plugin has just handed out this executable, which is the caller's to free.
        Ok(unsafe { ProgramHandle::from_raw(self.api, args.executable) })
    }
}
