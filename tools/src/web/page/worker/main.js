if (typeof scope.postMessage === "function") {
  const session = new Session((message) => scope.postMessage(message));
  scope.onmessage = (event) => session.handle(event.data);
}
return { Session, Trainer, Lens, Instance, unpacked, tokenizerOf, fitted, rowsOf, seedOf, fillInitial };
