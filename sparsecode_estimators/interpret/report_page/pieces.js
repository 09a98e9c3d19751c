// The data of the page: elements that hold JSON, compressed, in base64. Each is unpacked when
// it is asked for, and the last few stay unpacked.
const KEPT = 24;
const unpacked = new Map();

function unpack(id) {
  const known = unpacked.get(id) ?? read(id);
  unpacked.delete(id); // the one that was asked for last is the last to go
  unpacked.set(id, known);
  if (unpacked.size > KEPT) unpacked.delete(unpacked.keys().next().value);
  return known;
}

async function read(id) {
  const packed = document.getElementById(id).textContent;
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const json = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(json).text());
}

async function unpackLatent(encoder, latent) {
  const piece = await unpack(`latents-${encoder}-${Math.floor(latent / page.head.per_piece)}`);
  return piece[latent % page.head.per_piece];
}
