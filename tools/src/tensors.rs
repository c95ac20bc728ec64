//! Tensors where programs have them: in a plugin's memory, or in this process's.

use lmc_graph::{Literal, TensorType};

use crate::error::{Error, Result};

/// A tensor that programs take and return.
#[derive(Debug)]
pub enum Buffer {
    /// On a plugin's device.
    Device(lmc_runtime::Buffer),
    /// In this process, for WebAssembly.
    Host(Literal),
}

impl Buffer {
    /// The type.
    pub fn ty(&self) -> &TensorType {
        match self {
            Buffer::Device(buffer) => buffer.ty(),
            Buffer::Host(literal) => literal.ty(),
        }
    }

    /// Copies the tensor to the host. Waits for its contents.
    ///
    /// # Errors
    /// When the computation of the contents failed.
    pub fn to_literal(&self) -> lmc_runtime::Result<Literal> {
        match self {
            Buffer::Device(buffer) => buffer.to_literal(),
            Buffer::Host(literal) => Ok(literal.clone()),
        }
    }

    /// Waits until the contents are there.
    ///
    /// # Errors
    /// When the computation of the contents failed.
    pub fn wait(&self) -> lmc_runtime::Result<()> {
        match self {
            Buffer::Device(buffer) => buffer.wait(),
            Buffer::Host(_) => Ok(()),
        }
    }

    /// Whether reading would not have to wait.
    ///
    /// # Errors
    /// When the plugin cannot say.
    pub fn is_ready(&self) -> lmc_runtime::Result<bool> {
        match self {
            Buffer::Device(buffer) => buffer.is_ready(),
            Buffer::Host(_) => Ok(true),
        }
    }
}

/// What a program is given.
#[derive(Debug)]
pub enum Argument<'a> {
    /// A tensor that stays.
    Keep(&'a Buffer),
    /// A tensor whose memory the program may take over.
    Donate(Buffer),
}

impl<'a> Argument<'a> {
    /// The argument as a plugin takes it.
    ///
    /// # Errors
    /// If the tensor is in this process.
    pub(crate) fn on_device(self) -> Result<lmc_runtime::Argument<'a>> {
        let on_host =
            |ty: &TensorType| Error::run(format!("a program of a plugin was given a tensor of this process, {ty}"));
        match self {
            Argument::Keep(Buffer::Device(buffer)) => Ok(lmc_runtime::Argument::Keep(buffer)),
            Argument::Donate(Buffer::Device(buffer)) => Ok(lmc_runtime::Argument::Donate(buffer)),
            Argument::Keep(Buffer::Host(literal)) => Err(on_host(literal.ty())),
            Argument::Donate(Buffer::Host(literal)) => Err(on_host(literal.ty())),
        }
    }

    /// The argument as WebAssembly takes it.
    ///
    /// # Errors
    /// If the tensor is on a device.
    pub(crate) fn on_host(&self) -> Result<&Literal> {
        let buffer = match self {
            Argument::Keep(buffer) => buffer,
            Argument::Donate(buffer) => buffer,
        };
        match buffer {
            Buffer::Host(literal) => Ok(literal),
            Buffer::Device(buffer) => {
                Err(Error::run(format!("WebAssembly was given a tensor of a plugin's device, {}", buffer.ty())))
            }
        }
    }
}
