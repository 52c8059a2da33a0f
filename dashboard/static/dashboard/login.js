// Swaps a code from the address's fragment, which no server and no log ever sees, for a cookie; or a token that is typed.
const form = document.getElementById("form");
const told = document.getElementById("told");

async function signIn(given) {
  form.elements[1].disabled = true;
  told.textContent = "";
  try {
    const answer = await fetch("/api/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(given),
    });
    if (answer.ok) return location.replace("/");
    told.textContent = (await answer.json()).error.message;
  } catch {
    told.textContent = "mlxd does not answer.";
  }
  form.elements[1].disabled = false;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const token = form.elements.token.value.trim();
  form.reset();
  signIn({ token });
});

const code = location.hash.slice(1);
if (code) {
  history.replaceState(null, "", "/login"); // it is good once, and need not be looked at
  signIn({ code });
}
