//! The text form: printing and parsing, which are inverse and know no op.
//!
//! ```text
//! // Comments go to the end of the line.
//! func @name(%0: f32[2,3] "x", %1: f32[2] donated(0)) -> (f32[2] "loss") {
//!   %2: f32[2] = reduce(%0) {op = add, dimensions = [1]} loc("model.norm" "src/model.rs":12)
//!   %5: f32[2], %6: f32[4,2] = scan(%1) {num_carry = 1, length = 4, reverse = false} ({
//!     ^(%3: f32[2]):
//!     %4: f32[2] = add(%2, %3)
//!     return %4, %4
//!   })
//!   return %5
//! }
//! ```
//!
//! In Extended Backus-Naur form, with white space and comments between any two tokens:
//! ```text
//! text     = { func } ;
//! func     = "func" name "(" [ param { "," param } ] ")" "->" "(" [ result { "," result } ] ")" "{" body "}" ;
//! param    = value ":" type [ string ] [ "donated" "(" integer ")" ] ;
//! result   = type [ string ] ;
//! body     = { node } "return" [ value { "," value } ] ;
//! node     = [ typed { "," typed } "=" ] word "(" [ value { "," value } ] ")" [ attrs ] [ regions ] [ loc ] ;
//! typed    = value ":" type ;
//! attrs    = "{" word "=" attr { "," word "=" attr } "}" ;
//! attr     = number | "true" | "false" | word | "[" [ integer { "," integer } ] "]" | type | dense ;
//! regions  = "(" region { "," region } ")" ;
//! region   = "{" [ "^" "(" typed { "," typed } ")" ":" ] body "}" ;
//! loc      = "loc" "(" ( "unknown" | [ string ] [ string ":" integer ] ) ")" ;   (* scope, then file and line *)
//! type     = word "[" [ integer { "," integer } ] "]" ;
//! dense    = "dense" "<" type ":" ( element "..." | [ element { "," element } ] ) ">" ;
//! element  = number | "true" | "false" | "inf" | "-inf" | "nan" ;
//! name     = "@" ( word | string ) ;
//! value    = "%" word ;
//! ```
//!
//! `element ...` fills a tensor with one element. Floats are decimal with as few digits as tell them apart from their
//! neighbours; infinities and NaNs print as the bits in hexadecimal, one digit for four bits (`0x7FC00000`).
//!
//! Values print as their ids and may have any name when parsed. The parser numbers values, nodes and regions as a
//! [`Builder`](crate::Builder) does whose parameters come first: a region's parameters, its nodes, then the results of
//! the node that owns it. So parsing what was printed gives the same function, with the same ids if they were in that
//! order and none was dead, as after [`dce`](crate::dce::dce), and renumbered otherwise. A node without `loc` is
//! located at its own line of the text.

mod error;
mod lexer;
mod number;
mod parse;
mod print;
#[cfg(test)]
pub(crate) mod tests;

pub use error::ParseError;
pub use number::write_element;
pub use parse::{Parsed, parse, parse_all, parse_each};
pub use print::{PrintOptions, print, print_with};

pub(crate) use print::{header_line, node_line, untyped_line};
