// nodemailer's smtp-server as a server that drops every message: node smtp_server_sink.cjs PORT [PEM]
// It is found by way of NODE_PATH.
const fs = require("node:fs");
const { SMTPServer } = require("smtp-server");

const [port, pem] = process.argv.slice(2);
const tls = pem ? { secure: true, key: fs.readFileSync(pem), cert: fs.readFileSync(pem) } : {};

new SMTPServer({
  ...tls,
  authOptional: true,
  disabledCommands: pem ? ["AUTH"] : ["AUTH", "STARTTLS"],
  disableReverseLookup: true,
  logger: false,
  onData(stream, session, callback) {
    stream.on("end", () => callback(null));
    stream.resume();
  },
})
  .on("error", () => {})
  .listen(Number(port), "127.0.0.1");
