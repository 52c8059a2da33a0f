// Swaps a code from the address's fragment, which no server and no log ever sees, for a cookie; or a token that is typed.
// What pages send with every change is told here and kept for this origin: the cookie goes to other ports too, this stays.
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
    const heard = await answer.json();
    if (answer.ok) {
      localStorage.setItem("mlxd-csrf", heard.csrf);
      return location.replace("/");
    }
    told.textContent = heard.error.message;
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

function takeCode() {
  const code = location.hash.slice(1);
  if (code) {
    history.replaceState(null, "", "/login"); // it is good once, and need not be looked at
    signIn({ code });
  }
}

addEventListener("hashchange", takeCode); // an address pasted over that of this page loads nothing anew
takeCode();
