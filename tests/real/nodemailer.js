// Sends what the argument says, as JSON: the transport's options, and one message. Prints what came of it.
"use strict";

const nodemailer = require("nodemailer");

async function main() {
  const { transport, message } = JSON.parse(process.argv[2]);
  const sender = nodemailer.createTransport(transport);
  try {
    const info = await sender.sendMail(message);
    console.log(JSON.stringify({ accepted: info.accepted, rejected: info.rejected, response: info.response }));
  } finally {
    sender.close();
  }
}

main().catch((error) => {
  console.error(JSON.stringify({ code: error.code, response: error.response, message: error.message }));
  process.exitCode = 1;
});
