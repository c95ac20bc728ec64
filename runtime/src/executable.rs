//! Compiled programs.

use std::collections::BTreeMap;
use std::fmt;

use lmc_graph::TensorType;

use crate::buffer::{Buffer, tensor_type};
use crate::error::{Error, PjrtError, Result};
use crate::pjrt::calls::{ExecutableHandle, NamedValue};
use crate::pjrt::program::CompiledMemoryStats;
use crate::signature::Signature;

/// An argument of an execution. Ownership says whether the program may reuse the memory.
#[derive(Debug)]
pub enum Argument<'a> {
    /// Given away: where the program aliases this argument with an output (`tf.aliasing_output`), the output takes
    /// over its memory; otherwise the memory is freed when the execution is over.
    Donate(Buffer),
    /// Lent: the buffer stays as it is, whatever the program says about aliasing.
    Keep(&'a Buffer),
}

impl Argument<'_> {
    fn buffer(&self) -> &Buffer {
        match self {
            Argument::Donate(buffer) => buffer,
            Argument::Keep(buffer) => buffer,
        }
    }
}

impl From<Buffer> for Argument<'_> {
    fn from(buffer: Buffer) -> Self {
        Argument::Donate(buffer)
    }
}

impl<'a> From<&'a Buffer> for Argument<'a> {
    fn from(buffer: &'a Buffer) -> Argument<'a> {
        Argument::Keep(buffer)
    }
}

/// A compiled program, loaded on a device.
pub struct Executable {
    handle: ExecutableHandle,
    name: String,
    arguments: Vec<TensorType>,
    outputs: Vec<TensorType>,
}

impl Executable {
    /// A program that the plugin has compiled or loaded, with the signature of its text.
    pub(crate) fn new(handle: ExecutableHandle, signature: Signature) -> Result<Executable> {
        let outputs = handle
            .program()
            .outputs()?
            .into_iter()
            .map(|(kind, dims)| tensor_type(kind, &dims))
            .collect::<Result<_>>()?;
        Ok(Executable { handle, name: signature.module, arguments: signature.arguments, outputs })
    }

    /// The name of the module it was compiled from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The types of its arguments.
    pub fn arguments(&self) -> &[TensorType] {
        &self.arguments
    }

    /// The types of its outputs.
    pub fn outputs(&self) -> &[TensorType] {
        &self.outputs
    }

    /// Starts the program and returns its outputs without waiting for them: they can be arguments of the next
    /// execution at once, and reading one waits for it. Several threads may execute the same program.
    ///
    /// # Errors
    /// When the arguments are not those of the program (nothing is run then, but donated buffers are gone), or the
    /// device is out of memory. What fails later is the error of reading an output.
    pub fn execute(&self, arguments: Vec<Argument<'_>>) -> Result<Vec<Buffer>> {
        self.check_arguments(&arguments)?;
        let kept: Vec<i64> = arguments
            .iter()
            .enumerate()
            .filter_map(|(index, argument)| matches!(argument, Argument::Keep(_)).then_some(index as i64))
            .collect();
        let handles: Vec<_> = arguments.iter().map(|argument| &argument.buffer().handle).collect();
        let outputs = self.handle.execute(&handles, &kept, &self.name)?;
        // The handles of what was donated are freed here; the execution holds what it still needs of them.
        drop(arguments);
        let outputs: Vec<Buffer> =
            outputs.into_iter().zip(&self.outputs).map(|(h, ty)| Buffer::from_handle(h, ty.clone())).collect();
        if cfg!(debug_assertions) {
            outputs.iter().try_for_each(Buffer::check_type)?;
        }
        Ok(outputs)
    }

    /// Compares number, types and client of the arguments with the program's.
    fn check_arguments(&self, arguments: &[Argument<'_>]) -> Result<()> {
        if arguments.len() != self.arguments.len() {
            let (expected, found) = (self.arguments.len(), arguments.len());
            return Err(Error::ArgumentCount { program: self.name.clone(), expected, found });
        }
        for (index, (argument, expected)) in arguments.iter().zip(&self.arguments).enumerate() {
            let buffer = argument.buffer();
            if buffer.ty() != expected {
                let (expected, found) = (expected.clone(), buffer.ty().clone());
                return Err(Error::ArgumentType { program: self.name.clone(), index, expected, found });
            }
            if !buffer.handle.is_of(self.handle.client()) {
                return Err(Error::ArgumentClient { program: self.name.clone(), index });
            }
        }
        Ok(())
    }

    /// The sizes that the compiler planned, in bytes.
    ///
    /// # Errors
    /// When the plugin does not say.
    pub fn memory_stats(&self) -> Result<CompiledMemoryStats> {
        Ok(self.handle.program().memory_stats()?)
    }

    /// XLA's estimate of the cost of one execution: `flops`, `bytes accessed`, `transcendentals` and others.
    ///
    /// # Errors
    /// When the plugin does not say.
    pub fn cost_analysis(&self) -> Result<BTreeMap<String, f64>> {
        let properties = self.handle.program().cost_analysis()?;
        Ok(properties.into_iter().filter_map(|(name, value)| Some((name, number(&value)?))).collect())
    }

    /// A digest that equal compiled programs have in common.
    ///
    /// # Errors
    /// When the plugin does not say.
    pub fn fingerprint(&self) -> Result<Vec<u8>> {
        Ok(self.handle.program().fingerprint()?)
    }

    /// The program in the plugin's own form. The caller has asked [`is_serializable`] before.
    pub(crate) fn serialize(&self) -> std::result::Result<Vec<u8>, PjrtError> {
        self.handle.program().serialize()
    }
}

impl fmt::Debug for Executable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Executable(@{}: {} arguments, {} outputs)", self.name, self.arguments.len(), self.outputs.len())
    }
}

/// A property of the cost analysis as a number.
pub(crate) fn number(value: &NamedValue) -> Option<f64> {
    match value {
        NamedValue::Float(value) => Some(f64::from(*value)),
        NamedValue::Int64(value) => Some(*value as f64),
        NamedValue::Bool(value) => Some(f64::from(u8::from(*value))),
        NamedValue::String(_) | NamedValue::Int64List(_) => None,
    }
}

/// Whether a program may be serialized: not if it calls oneDNN, for then the CPU plugin (PJRT 0.81) throws a C++
/// exception through the C API, which ends the process.
pub(crate) fn is_serializable(text: &str) -> bool {
    !text.contains("__onednn$")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use lmc_graph::{DType, Literal};

    use super::*;
    use crate::error::ErrorCode;
    use crate::testing::{client, compile, doubling, plugin};
    use crate::{Client, ClientOptions};

    fn numbers(elements: [f32; 4]) -> Buffer {
        client().buffer(&Literal::new([4], &elements)).expect("a buffer")
    }

    fn read(buffer: &Buffer) -> Vec<f32> {
        buffer.to_literal().expect("read").elements()
    }

    #[test]
    fn what_is_kept_stays() {
        let (program, a) = (doubling(), numbers([1., 2., 3., 4.]));
        for _ in 0..3 {
            let outputs = program.execute(vec![Argument::Keep(&a)]).expect("executed");
            assert_eq!(read(&outputs[0]), [2., 4., 6., 8.]);
            assert_ne!(outputs[0].device_address().expect("address"), a.device_address().expect("address"));
        }
        assert_eq!(read(&a), [1., 2., 3., 4.]);
    }

    #[test]
    fn what_is_donated_is_reused() {
        let program = doubling();
        let mut a = numbers([1., 2., 3., 4.]);
        let address = a.device_address().expect("address");
        for _ in 0..3 {
            a = program.execute(vec![Argument::Donate(a)]).expect("executed").remove(0);
            assert_eq!(a.device_address().expect("address"), address);
        }
        assert_eq!(read(&a), [8., 16., 24., 32.]);
    }

    /// What ownership rules out above this layer: using a buffer after it was donated.
    #[test]
    fn a_donated_buffer_is_gone() {
        let (program, a) = (doubling(), numbers([1., 2., 3., 4.]));
        let outputs = program.handle.execute(&[&a.handle], &[], "test").expect("executed");
        assert_eq!(outputs.len(), 1);
        let Err(Error::Pjrt(error)) = a.to_literal() else { panic!("a donated buffer was read") };
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
        assert!(error.message.contains("deleted or donated"), "{error}");
        assert!(program.execute(vec![Argument::Keep(&a)]).is_err());
    }

    #[test]
    fn donating_what_the_program_does_not_alias_frees_it() {
        let body = "%0 = stablehlo.add %a, %a : tensor<4xf32>\n return %0 : tensor<4xf32>";
        let program = compile("%a: tensor<4xf32>", "tensor<4xf32>", body);
        let outputs = program.execute(vec![Argument::Donate(numbers([1., 2., 3., 4.]))]).expect("executed");
        assert_eq!(read(&outputs[0]), [2., 4., 6., 8.]);
    }

    #[test]
    fn wrong_arguments_are_named() {
        let program = doubling();
        let a = numbers([0.; 4]);
        let check = |arguments, expected: &str| {
            let error = program.execute(arguments).expect_err("refused");
            assert_eq!(error.to_string(), expected);
        };
        check(vec![], "`m` takes 1 arguments, found 0");
        check(vec![(&a).into(), (&a).into()], "`m` takes 1 arguments, found 2");
        let five = client().buffer(&Literal::zeros(TensorType::new(DType::F32, [5]))).expect("a buffer");
        check(vec![five.into()], "argument 0 of `m` is f32[4], found f32[5]");
        let options = ClientOptions { cpu_device_count: Some(2), ..ClientOptions::default() };
        let other = Client::new(&plugin(), &options).expect("a client");
        let foreign = other.buffer(&Literal::zeros(TensorType::new(DType::F32, [4]))).expect("a buffer");
        check(vec![foreign.into()], "argument 0 of `m` is a buffer of another client; copy it through the host");
    }

    /// A program that takes a while: 2000 products of 128 x 128.
    fn slow() -> Executable {
        let body = "%zero = stablehlo.constant dense<0> : tensor<i32>
            %one = stablehlo.constant dense<1> : tensor<i32>
            %end = stablehlo.constant dense<2000> : tensor<i32>
            %0:2 = stablehlo.while(%i = %zero, %x = %a) : tensor<i32>, tensor<128x128xf32>
            cond {
              %c = stablehlo.compare LT, %i, %end : (tensor<i32>, tensor<i32>) -> tensor<i1>
              stablehlo.return %c : tensor<i1>
            } do {
              %j = stablehlo.add %i, %one : tensor<i32>
              %y = stablehlo.dot_general %x, %a, contracting_dims = [1] x [0] : (tensor<128x128xf32>, tensor<128x128xf32>) -> tensor<128x128xf32>
              stablehlo.return %j, %y : tensor<i32>, tensor<128x128xf32>
            }
            return %0#1 : tensor<128x128xf32>";
        compile("%a: tensor<128x128xf32>", "tensor<128x128xf32>", body)
    }

    /// The identity matrix, whose powers are itself.
    fn identity() -> Literal {
        let elements: Vec<f32> = (0..128 * 128).map(|i| f32::from(u8::from(i % 129 == 0))).collect();
        Literal::new([128, 128], &elements)
    }

    #[test]
    fn execution_does_not_wait() {
        let program = slow();
        let a = client().buffer(&identity()).expect("a buffer");
        // This thread may be held up until the output is there, but not every time.
        let first = (0..10).find_map(|_| {
            let first = program.execute(vec![(&a).into()]).expect("executed").remove(0);
            (!first.is_ready().expect("an answer")).then_some(first)
        });
        let first = first.expect("executions are waited for");
        // An output that is not there yet is an argument at once, and may be dropped by its owner.
        let second = program.execute(vec![first.into()]).expect("executed").remove(0);
        drop(a);
        second.wait().expect("computed");
        assert!(second.is_ready().expect("an answer"));
        assert_eq!(second.to_literal().expect("read"), identity());
    }

    #[test]
    fn threads_may_execute_the_same_program() {
        let program = doubling();
        thread::scope(|scope| {
            for thread in 0..4u8 {
                let program = &program;
                scope.spawn(move || {
                    for i in 0..200u8 {
                        let x = f32::from(thread) * 1000. + f32::from(i);
                        let outputs = program.execute(vec![numbers([x; 4]).into()]).expect("executed");
                        assert_eq!(read(&outputs[0]), [2. * x; 4]);
                    }
                });
            }
        });
    }

    #[test]
    fn several_outputs_and_none_aliased() {
        let body = "%0 = stablehlo.convert %a : (tensor<4xf32>) -> tensor<4xi32>\n return %a, %0 : tensor<4xf32>, tensor<4xi32>";
        let program = compile("%a: tensor<4xf32>", "tensor<4xf32>, tensor<4xi32>", body);
        let types: Vec<String> = program.outputs().iter().map(TensorType::to_string).collect();
        assert_eq!(types, ["f32[4]", "i32[4]"]);
        let outputs = program.execute(vec![numbers([1., 2., 3., 4.]).into()]).expect("executed");
        assert_eq!(outputs[1].to_literal().expect("read").elements::<i32>(), [1, 2, 3, 4]);
    }

    #[test]
    fn statistics() {
        let program = slow();
        let stats = program.memory_stats().expect("known on the CPU");
        // One f32 matrix of 128 x 128 each.
        assert_eq!((stats.arguments, stats.outputs, stats.alias), (65536, 65536, 0));
        assert!(stats.temporaries >= 65536 && stats.peak >= stats.arguments + stats.outputs, "{stats:?}");
        let stats = doubling().memory_stats().expect("known on the CPU");
        assert_eq!((stats.arguments, stats.outputs, stats.alias, stats.peak), (16, 16, 16, 16));
        let cost = doubling().cost_analysis().expect("known on the CPU");
        assert_eq!((cost["flops"], cost["bytes accessed"]), (4., 32.));
        assert!(!doubling().fingerprint().expect("known on the CPU").is_empty());
    }

    /// Makes 4 PiB (2^50 elements) out of the first element.
    fn too_much() -> Executable {
        let body = "%0 = stablehlo.slice %a [0:1, 0:1] : (tensor<128x128xf32>) -> tensor<1x1xf32>
            %1 = stablehlo.broadcast_in_dim %0, dims = [0, 1] : (tensor<1x1xf32>) -> tensor<1x1125899906842624xf32>
            return %1 : tensor<1x1125899906842624xf32>";
        compile("%a: tensor<128x128xf32>", "tensor<1x1125899906842624xf32>", body)
    }

    #[test]
    fn out_of_memory_is_an_error() {
        let a = client().buffer(&identity()).expect("a buffer");
        // At once or at the first use: the plugin runs small programs on either thread.
        let result = too_much().execute(vec![a.into()]).and_then(|outputs| outputs[0].wait());
        let message = result.expect_err("too much").to_string();
        assert!(message.contains("Out of memory"), "{message}");
    }

    #[test]
    fn what_fails_later_is_the_error_of_reading() {
        let (slow, too_much, a) = (slow(), too_much(), client().buffer(&identity()).expect("a buffer"));
        // A program whose argument is not there yet cannot fail at once. This thread may be held up until it is there,
        // but not every time.
        let second = (0..10).find_map(|_| {
            let first = slow.execute(vec![(&a).into()]).expect("executed").remove(0);
            Some(too_much.execute(vec![first.into()]).ok()?.remove(0))
        });
        let second = second.expect("a program fails before its argument is there");
        for error in [second.wait(), second.to_literal().map(|_| ())] {
            let message = error.expect_err("too much").to_string();
            assert!(message.contains("Out of memory"), "{message}");
        }
        // The client goes on.
        let third = slow.execute(vec![a.into()]).expect("executed").remove(0);
        assert_eq!(third.to_literal().expect("read"), identity());
    }
}
